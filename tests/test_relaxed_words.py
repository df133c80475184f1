"""Words by matching: the closed form is the client's own gradient, and where rows say nothing the words are found."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_spoken_words import CLASSES, OUTPUT, SENTENCES, target, utterances

import leakscope as ls
from leakscope.attacks.parts.search.state_file import StateFile
from leakscope.attacks.transcripts.matching.relaxed_words import LONGEST, _Kept, _Search
from leakscope.attacks.transcripts.matching.shown_pieces import shown_pieces
from leakscope.attacks.transcripts.matching.unheard import AbstractUnheard
from leakscope.core.effort import State
from leakscope.core.refusal import Refusal
from leakscope.targets.looking.tape import recorded
from leakscope.targets.zoo.listen_attend_spell import Speller

QUICK = ls.RelaxedWords(restarts=8, steps=150, decay_steps=150, unchanged=60)
NOISY = ls.FedSGD() >> ls.GaussianNoise(3e-5)
UNHEARD = [ls.AttentionContexts(), ls.SoftmaxInputs(), ls.SpeechFrames()]


def observed(which: int, mechanism: Any, *told: Any) -> ls.Observation:
    return ls.observe(target(), utterances(which), mechanism, key=ls.Key(0), tell=list(told))


def search(attack: ls.RelaxedWords, seen: ls.Observation, length: int) -> _Search:
    ready = attack.ready(seen)
    assert not isinstance(ready, Refusal), ready
    return _Search(attack, ready.read, length, ls.Key(0))


def truth(of: AbstractUnheard, batch: ls.Batch, spread: float) -> torch.Tensor:
    """What the search leaves free, as the model itself has it."""
    model = target()
    with recorded(model.module, ["speller.output"]) as calls, torch.no_grad():
        model.outputs(model.parameters(), batch)
    fed = torch.as_tensor(calls[-1].given)
    if isinstance(of, ls.SpeechFrames):
        return batch.inputs
    return (fed if isinstance(of, ls.SoftmaxInputs) else fed[..., 48:]) / spread


@pytest.mark.parametrize("of", UNHEARD, ids=repr)
@pytest.mark.parametrize(
    "mechanism", [ls.FedSGD(), ls.FedSGD() >> ls.Clip(1e-3), ls.FedSGD() >> ls.Prune(0.2)], ids=repr
)
def test_the_truth_is_at_no_distance(of: AbstractUnheard, mechanism: Any) -> None:
    """dL/dW and dL/db as the client's own autograd has them, by another route; of a wrong word it is far."""
    batch = utterances(0)
    seen = observed(0, mechanism, ls.Lengths((21,)))
    said = SENTENCES[0]
    here = search(ls.RelaxedWords(of, length=len(said), restarts=2), seen, len(said))
    wrong = (said[1], said[0], *said[2:])
    with torch.no_grad():
        here.free.copy_(truth(of, batch, here.read.model.spread).expand_as(here.free))
        for row, one in enumerate((said, wrong)):
            places = torch.tensor([here.read.pieces.tolist().index(piece) for piece in one])
            here.scores[row] = 200 * torch.nn.functional.one_hot(places, len(here.read.pieces))
        right, other = here.distances().tolist()
    assert right < 1e-8
    assert other > (1e-8 if of.ordered else 1e-4)
    assert other > 1e3 * right


def test_a_sentence_says_whether_declared_noise_explains_its_distance() -> None:
    """At the truth the distance is that of the noise that was added; of a wrong word, and of a search that has only
    begun, it is more. Where no noise is declared there is nothing to hold it beside."""
    seen, said = observed(0, NOISY, ls.Lengths((21,))), SENTENCES[0]
    attack = ls.RelaxedWords(length=len(said), restarts=2)
    here = search(attack, seen, len(said))
    with torch.no_grad():
        here.free.copy_(truth(attack.of, utterances(0), here.read.model.spread).expand_as(here.free))
        for row, one in enumerate((said, (said[1], said[0], *said[2:]))):
            places = torch.tensor([here.read.pieces.tolist().index(piece) for piece in one])
            here.scores[row] = 200 * torch.nn.functional.one_hot(places, len(here.read.pieces))
        right, _ = here.distances().tolist()
    for factor, words in ((1.0, "no more than the declared noise leaves"), (2.0, "ended short of it")):
        assert words in attack._reached(seen, here.read, factor * right, ls.Key(3))
    begun = dataclasses.replace(attack, steps=1).run(seen, key=ls.Key(1))
    assert "times what the declared noise leaves of the true sentence: the search ended short of it" in begun.sentence
    plain = dataclasses.replace(attack, steps=1).run(observed(0, ls.FedSGD()), key=ls.Key(1))
    assert "noise" not in plain.sentence


@pytest.mark.parametrize(("which", "mechanism"), [(1, NOISY), (1, ls.FedAvg(steps=3, lr=0.01))], ids=repr)
def test_where_rows_say_nothing_the_words_are_found(which: int, mechanism: Any) -> None:
    """Nothing is told, not even the length; and nothing is proved."""
    seen = observed(which, mechanism)
    bare = ls.SpokenWords(matching=None).run(seen, key=ls.Key(1))
    assert bare.claim is None
    attempt = ls.SpokenWords(matching=QUICK).run(seen, key=ls.Key(1))
    assert attempt.claim.labels == (SENTENCES[which],), attempt.sentence
    assert attempt.certificate is None
    assert attempt.claim.confidence.isnan().all()
    assert bare.sentence in attempt.sentence
    assert "no proof" in attempt.sentence


def test_the_rows_come_first() -> None:
    """Where they are followed, matching is not asked, and a proof is what it was."""
    seen = observed(0, ls.FedSGD())
    with_it, without = (ls.SpokenWords(matching=one).run(seen, key=ls.Key(1)) for one in (QUICK, None))
    assert with_it.certified
    assert with_it.certificate == without.certificate
    assert with_it.cost.evaluations == 0


def test_inputs_of_the_output_layer_give_a_bag() -> None:
    said = SENTENCES[1]
    attack = dataclasses.replace(QUICK, of=ls.SoftmaxInputs(), length=len(said))
    attempt = attack.run(observed(1, ls.FedSGD()), key=ls.Key(1))
    assert attempt.claim.pieces == tuple(sorted((piece,) for piece in said))
    assert "no order" in attempt.sentence


def test_after_local_steps_as_many_pieces_are_taken_as_were_fed() -> None:
    """Distances of longer sentences say nothing there; where nobody knows what was fed, the length is to be told."""
    seen = observed(1, ls.FedAvg(steps=2, lr=0.1))
    attempt = ls.RelaxedWords(steps=2).run(seen, key=ls.Key(1))
    assert "lengths from 2 to 2 tried" in attempt.sentence
    output = ls.Delta({name: seen.release.by_name[name] for name in OUTPUT})
    refusal = QUICK.refusal(ls.Observation(seen.target, output, seen.mechanism))
    assert refusal is not None
    assert "give the length" in refusal.sentence


def test_only_what_was_fed_is_tried() -> None:
    """Of a gradient whose zeros say it; behind pruning, which cuts rows off, and without `bag` all pieces are tried."""
    short = ls.RelaxedWords(length=2, steps=1)
    for attack, mechanism, tried in (
        (short, ls.FedSGD(), 2),
        (dataclasses.replace(short, bag=False), ls.FedSGD(), CLASSES - 1),
        (short, ls.FedSGD() >> ls.Prune(0.5), CLASSES - 1),
        (dataclasses.replace(short, bag=False), NOISY, CLASSES - 1),
        (short, ls.FedSGD() >> ls.GaussianNoise(10.0), CLASSES - 1),
    ):
        assert len(search(attack, observed(1, mechanism), 2).read.pieces) == tried


def test_behind_noise_the_bias_tells_pieces_that_the_weight_has_lost() -> None:
    """At a noise that leaves the output weight's gradient no direction, dL/db still names all pieces: with all others
    tried, and the length counted by directions, one of two words was lost, and an audit took that for protection."""
    for which, said in enumerate(SENTENCES):
        here = search(QUICK, observed(which, ls.FedSGD() >> ls.GaussianNoise(0.02)), 1).read
        assert here.pieces.tolist() == sorted(set(said))
        assert here.least == len(set(said))
    attempt = QUICK.run(observed(1, ls.FedSGD() >> ls.GaussianNoise(0.02)), key=ls.Key(1))
    assert attempt.claim.labels == SENTENCES[1:2], attempt.sentence
    assert attempt.certificate is None


def test_where_the_weight_shows_more_than_the_bias_all_pieces_are_tried() -> None:
    """What the bias is sure of is fewer than the directions that stand out: it would leave some pieces out."""
    seen = observed(0, NOISY)
    speller = dict(seen.target.module.named_modules())["speller"]
    assert isinstance(speller, Speller)
    shown = shown_pieces(seen, "speller.output", speller, 4)
    assert shown is not None
    assert shown.nonzero()[0].tolist() == sorted(set(SENTENCES[0]))
    assert shown_pieces(seen, "speller.output", speller, 5) is None


def test_it_stops_where_the_transcript_stays() -> None:
    """The published rule: more than the share `most` of the last `unchanged` transcripts are the present one."""
    seen = observed(1, ls.FedSGD())
    spent = {
        (unchanged, most): ls.RelaxedWords(length=2, steps=100, restarts=2, unchanged=unchanged, most=most)
        .run(seen, key=ls.Key(1))
        .cost.evaluations
        for unchanged, most in ((20, 0.99), (40, 0.99), (40, 0.1), (101, 0.1))
    }
    assert spent[20, 0.99] < spent[40, 0.99] < 200
    assert 2 * 40 <= spent[40, 0.1] <= spent[40, 0.99]
    assert spent[101, 0.1] == 200


def test_the_worse_half_of_the_restarts_is_dropped() -> None:
    """Every two steps, down to four; those that stay are those at the least distance."""
    seen = observed(1, ls.FedSGD())
    attack = ls.RelaxedWords(length=2, restarts=17, steps=8, halve=2)
    assert attack.run(seen, key=ls.Key(1)).cost.evaluations == 2 * (17 + 8 + 4 + 4)
    assert dataclasses.replace(attack, halve=0).run(seen, key=ls.Key(1)).cost.evaluations == 8 * 17
    here = search(attack, seen, 2)
    here.each = here.distances().detach()
    least = here.scores[here.each.argsort()[:8]].detach()
    assert here._halved(2)
    assert torch.equal(here.scores, least)
    assert here.free.requires_grad


def test_lengths_are_tried_until_longer_ones_are_no_better() -> None:
    attack = ls.RelaxedWords(steps=2, longer=3, restarts=1)
    kept = _Kept()
    assert not attack._longest(kept, False)
    for distance, ends in ((0.5, False), (0.2, False), (0.199, False), (0.3, False), (0.4, True)):
        kept.found.append(dataclasses.replace(search(attack, observed(1, ls.FedSGD()), 0).best(), distance=distance))
        assert attack._longest(kept, False) is ends
        assert attack._longest(kept, True)
    assert kept.best().distance == 0.2


@final
class Dying(StateFile):
    """Interrupts the search when it saves for the second time, after the first length."""

    def save(self, state: State, *, seconds: float) -> None:
        StateFile.save(self, state, seconds=seconds)
        if len(state["found"]) == 1:
            raise KeyboardInterrupt


def test_a_search_that_was_interrupted_goes_on_to_the_same_answer(tmp_path: Path) -> None:
    seen, attack = observed(1, NOISY), ls.RelaxedWords(steps=5, restarts=2, longer=1)
    whole = attack.run(seen, key=ls.Key(1))
    first = attack.run(seen, key=ls.Key(1), checkpoint=Dying(tmp_path / "state", every=0))
    assert first.outcome is ls.Outcome.INTERRUPTED
    assert first.cost.evaluations == 10
    resumed = attack.run(seen, key=ls.Key(1), checkpoint=StateFile(tmp_path / "state", every=1e9))
    assert (resumed.claim.labels, resumed.sentence) == (whole.claim.labels, whole.sentence)
    assert resumed.cost.evaluations == whole.cost.evaluations
    assert resumed.trace == whole.trace or list(resumed.trace.losses) == list(whole.trace.losses)


def test_a_budget_ends_it_with_what_there_is() -> None:
    attempt = ls.RelaxedWords(restarts=2).run(observed(1, NOISY), key=ls.Key(1), budget=ls.Budget(evaluations=6))
    assert attempt.cost.evaluations == 6
    assert attempt.claim is not None


REFUSED: list[tuple[ls.RelaxedWords, Any, list[Any], str]] = [
    (QUICK, ls.FedSGD(), [ls.BatchSize(2)], "matches one utterance"),
    (QUICK, ls.FedSGD() >> ls.Prune(0.1), [], "give the length"),
    (QUICK, ls.FedSGD() >> ls.Sign(), [], "give the length"),
    (dataclasses.replace(QUICK, of=ls.SpeechFrames()), ls.FedSGD(), [], "needs to be told Lengths"),
]


@pytest.mark.parametrize(("attack", "mechanism", "told", "why"), REFUSED, ids=str)
def test_what_it_needs_is_said(attack: Any, mechanism: Any, told: list[Any], why: str) -> None:
    batch = utterances(0, 1) if told else utterances(1)
    seen = ls.observe(target(), batch, mechanism, key=ls.Key(0), tell=told)
    refusal = attack.refusal(seen)
    assert refusal is not None
    assert why in refusal.sentence


def test_other_models_and_parts_of_an_update_are_refused() -> None:
    seen = observed(1, ls.FedSGD())
    other = ls.DeepSpeech(hidden=8, coefficients=5).build(ls.Frames(5), CLASSES, key=ls.Key(0))
    attempt = QUICK.run(ls.observe(other, utterances(1), ls.FedSGD(), key=ls.Key(0)), key=ls.Key(0))
    assert "ListenAttendSpell" in attempt.sentence
    bias = ls.Gradient({OUTPUT[1]: seen.release.by_name[OUTPUT[1]]})
    assert f"lacks {OUTPUT[0]}" in QUICK.refusal(ls.Observation(seen.target, bias, seen.mechanism)).sentence
    weight = ls.Observation(seen.target, ls.Gradient({OUTPUT[0]: seen.release.by_name[OUTPUT[0]]}), seen.mechanism)
    claim = QUICK.run(weight, key=ls.Key(1)).claim
    assert claim.labels == (SENTENCES[1],)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["lr", "least_lr", "most", "restarts", "halve", "steps", "unchanged", "longer"]), st.data())
def test_numbers_out_of_range_are_refused(name: str, data: st.DataObject) -> None:
    wrong = data.draw(st.sampled_from([-1, float("nan"), float("inf"), "3", None, -0.5]))
    with pytest.raises(ls.BadInput):
        ls.RelaxedWords(**{name: wrong})


def test_a_rate_that_rises_and_a_book_are_refused() -> None:
    with pytest.raises(ls.BadInput, match="only falls"):
        ls.RelaxedWords(lr=0.1, least_lr=0.2)
    with pytest.raises(ls.BadInput, match="length"):
        ls.RelaxedWords(length=LONGEST + 1)


def test_numbers_beyond_single_precision_diverge() -> None:
    seen = observed(1, ls.FedSGD())
    huge = ls.Gradient({name: 1e60 * value.double() for name, value in seen.release.by_name.items()})
    attempt = dataclasses.replace(QUICK, length=2).run(ls.Observation(seen.target, huge, seen.mechanism), key=ls.Key(0))
    assert attempt.outcome is ls.Outcome.DIVERGED
    assert attempt.claim is None


@pytest.mark.parametrize("most", [1, 8, 15, 60, 100])
def test_a_budget_is_overspent_by_no_more_than_the_first_step(most: int) -> None:
    """A step takes one evaluation for each restart."""
    attempt = QUICK.run(observed(0, NOISY), key=ls.Key(0), budget=ls.Budget(evaluations=most))
    assert attempt.claim is not None
    assert attempt.cost.evaluations <= max(most, QUICK.restarts)
