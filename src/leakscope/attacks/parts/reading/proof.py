"""What stands between an attack's own equations and a proof: the mechanism, the numbers sent, and the whole update."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from leakscope.attacks.parts.reading.output_gradient import told_count
from leakscope.attacks.parts.reading.replayed import disagreement, labels_agree, last_places, unreplayable
from leakscope.attacks.parts.reading.scale import any_size, sized
from leakscope.attacks.parts.reading.unseen import unseen
from leakscope.core.attempt import Attempt, Certificate
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.errors import BadInput, NoSuchLayer, UnusableMechanism
from leakscope.core.facts import BatchSize, Lengths
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.release import Delta, same_kind
from leakscope.core.target import CrossEntropy, Target
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import BATCHES, clipped, doubt, evenly, keeps_ratios, known_weights
from leakscope.numerics import banded
from leakscope.numerics.rng import Key
from leakscope.targets.looking.altered_inputs import alters_inputs
from leakscope.targets.looking.context_window import ContextWindow
from leakscope.targets.looking.dense_ends import features_at, input_layer, output_layer, probe_inputs
from leakscope.targets.looking.random_entry import READERS, ROWS, RUNS, draws_first, runs_known_code
from leakscope.targets.looking.tape import named, recorded
from leakscope.targets.vetting.numbers import Look, looks, one_size

SLACK = 2e-3
"""How far out of its range a claimed input may lie, relative to the range: some times the error of an exact one."""
INDEPENDENT = 1e-4
"""Least size of the last direction of the output layer's gradient, relative to the first, that is no rounding: with
errors nearer to proportional than that, units agree on mixtures to within their own rounding."""
SPANNED = 1e-3
"""Largest distance from the span of the output layer's gradient of what is fed to it at a claim, relative."""
OTHER = 1.1
"""A factor of the claim that this distance has to tell from one."""
PROBES = 4
DRAWS = 8
"""How often the model is run in training mode: of what draws from a generator that is not watched, some draws show."""
DRAWN = "the model draws at random in front of its first layer, so that what this was fed need not be the private input"
ALTERED = (
    "what runs in front of the first layer changes some inputs, so that what this was fed need not be the private input"
)
"""Of deterministic code: a limit of brightness leaves its own results alone, so that a replay from these agrees."""
WHOLE = "; and the whole update, replayed from the claim and its labels, agrees: the client trained on these inputs"
"""What the statement of a certificate gains where the update was replayed."""
FED = "; this proves what the first layer was fed, and nothing of what followed"
"""What it gains where it could not be."""
ONE_SCALE = (
    "; where its weight and bias were sent in one scale, this proves what the first layer was fed, and nothing of what "
    "followed"
)
"""The same where the model does not show the size of the inputs, as behind dropout: else they are a multiple."""
WHOLE_ONE_SCALE = (
    "; and the whole update, replayed from the claim and its labels, agrees: where all its tensors were sent in one "
    "scale, the client trained on these inputs"
)
"""Of `WHOLE`, where a clip may have scaled the update and the model does not show the size of the inputs."""
ANY_SIZE = "; but for one factor, which is one unless the loss is another than the declared one"
"""What both gain where a loss that divides its logits by a number sends the same of a multiple of the inputs."""
MEAN = (
    "; where several examples had one and the same error, but for its size, which no gradient tells from one example, "
    "what is claimed is their mean"
)
"""What it gains where more examples may stand behind a claim than one: how many there are is not told, or more are."""
UNDRAWN = (
    "; assumed is that the model's own code in front of its first layer changes no input and draws nothing at random: "
    f"{RUNS} runs on {ROWS} inputs showed no draw, and variants of what is claimed, noise and constants no change; "
    "what acts more rarely shows in none"
)
"""What any proof of inputs says besides where the model runs code that is neither torch's nor this library's."""
WINDOWS = "; this proves that the first layer was fed these windows, and nothing of what was said"
"""The same for frames, whose transcripts are not known."""
BLIND = (
    "the first layer does not see part of the input, and there what is found may be the mean of several that it does "
    "not tell apart"
)
ALIKE = 0.1
"""Largest distance of a proved input, relative to it, from inputs of which it may be the mean; it is stated."""
HIDDEN = (
    "relative distance from the claim at which the nearest of several inputs whose mean it is would leave more than is "
    "left of the update; that is: "
)
"""How a statement begins where how many examples there are is not told, or more than were found."""
NEARLY = (
    "several inputs that differ by little may have been taken for one, their mean, which leaves a residual as small as "
    "the square of their distance, and what is left here hides more than a small one"
)
STEPPED = (
    "; this proves that the first layer was fed these windows, their size to a tenth, and nothing of what was said"
)
"""The same after local steps and behind dropout, which leave more open (`frames.exact.scale`)."""
UNSIZED = (
    "; this proves that the first layer was fed these windows, but for one factor for all of them, which is one where "
    "its weight and bias were sent in one scale, and nothing of what was said"
)
"""The same where the model does not show the size of the frames."""


def undeclared(seen: Observation) -> Refusal | None:
    """Why nothing is proved whatever the equations leave: an effect that is not declared, or inputs that were changed.

    An equation that holds to the last digit says that the numbers agree, not that the client computed them as the
    equation assumes: signs agree with each other too. Hence a proof needs a mechanism that says what it does.
    """
    own = {name: value for name, value in seen.release.by_name.items() if name in seen.target.parameters()}
    told = (seen.told(BatchSize).count,) if seen.knows(BatchSize) else ()
    why = doubt(seen.mechanism, own, examples=(*BATCHES, *told))
    return None if why is None else Refusal(why)


def bent(seen: Observation) -> Refusal | None:
    """The same for attacks that read proportions of entries, which noise, rounding, signs and pruning change."""
    # First, since a declared change of entries is no doubt to `undeclared`: that is left to each attack's equations.
    if keeps_ratios(seen.mechanism) is Answer.NO:
        return Refusal("a defense changed entries one by one")
    return undeclared(seen)


def settled(
    seen: Observation,
    attempt: Attempt[Inputs],
    *,
    partial: bool = False,
    fitted: Callable[[], bool | Refusal] = lambda: False,
    near: Callable[[Inputs], tuple[float, ...]] | None = None,
) -> Attempt[Inputs]:
    """The last word of an exact attack on inputs: the attempt with a certificate that is a proof, or without one.

    An attack's own equations look at one layer. What else contradicts them takes the certificate away: values out of
    the domain's range, a dropout layer in front of the first one, and, wherever the mechanism can be replayed, a whole
    update that is not the claim's in each tensor to within rounding. Where it cannot be, numbers that look like another
    mechanism than the declared one do the same, and the statement says that only the first layer is proved.
    partial: the claim need not be all of the batch, so that a replay that differs contradicts nothing. fitted:
    whether what each input says of itself fits, asked of a partial claim unless the output layer confirms it. near: how
    far each claimed input may be from several that it is the mean of, asked where more examples may be behind it than
    one; without it nothing is proved there.
    """
    try:
        return _settled(seen, attempt, _Asked(partial, fitted, near))
    # A replay or a look that fails says nothing of the claim, and nothing for it.
    except (UnusableMechanism, NoSuchLayer) as error:
        return _withdrawn(attempt, str(error))


@final
@dataclass(frozen=True)
class _Asked:
    """What `settled` is given to ask."""

    partial: bool
    fitted: Callable[[], bool | Refusal]
    near: Callable[[Inputs], tuple[float, ...]] | None


def _settled(seen: Observation, attempt: Attempt[Inputs], asked: _Asked) -> Attempt[Inputs]:
    certificate, claim, partial = attempt.certificate, attempt.claim, asked.partial
    if certificate is None or claim is None or not any(certificate.proved):
        return attempt
    why = _outside(seen, claim) or _changed(seen.target)
    if why is None and alters_inputs(seen.target, claim.values):
        why = ALTERED
    if why is not None:
        return _withdrawn(attempt, why)
    # Not of frames, whose loss is no function of inputs and labels alone.
    size = ANY_SIZE if acts_as(seen.target.loss, CrossEntropy) and any_size(seen, claim) else ""
    unable = unreplayable(seen)
    apart = disagreement(seen, claim) if unable is None else None
    if apart is not None and not apart <= 1 and not partial:
        seems, apart_by = (
            strange(seen),
            f"the update replayed from the claim is {apart:.0e} roundings from what was sent",
        )
        return _withdrawn(attempt, apart_by if seems is None else f"{apart_by}; {seems}")
    if apart is not None and apart <= 1:
        # Other labels than the claimed ones may have explained it: then those are no part of what is proved.
        if not labels_agree(seen, claim):
            attempt = dataclasses.replace(attempt, claim=dataclasses.replace(claim, labels=None))
        # A mean has a size, and its errors with it; of a multiple, a clip's, only the model can tell the size.
        shown = True if clipped(seen) is Answer.NO else sized(seen, claim.values)
        said = WHOLE if shown is True else WHOLE_ONE_SCALE
        return _counted(seen, attempt, said + size, asked, alone=partial and _unconfirmed(seen, claim) is None)
    # What runs the model last.
    why = strange(seen) or _binary(seen, claim)
    if why is not None:
        return _withdrawn(attempt, why)
    shown = (_unconfirmed(seen, claim) is None or asked.fitted()) if partial else sized(seen, claim.values)
    if isinstance(shown, Refusal):
        return _withdrawn(attempt, shown.sentence)
    # Errors of as many directions as examples, or of the size of one example's, are of one each.
    return _counted(seen, attempt, (FED if shown else ONE_SCALE) + size, asked, alone=partial and shown)


def _counted(seen: Observation, attempt: Attempt[Inputs], said: str, asked: _Asked, *, alone: bool) -> Attempt[Inputs]:
    """The attempt with what its certificate says, if each claim is of one example, or nothing of it is a mean.

    Examples of one error delta give (1/N) sum_s delta x_s^T, the gradient of their mean; a rectified net gives one
    error wherever it is linear and its softmax the same, so that this can never be excluded for them. It is said then,
    and where the first layer is blind to part of the input, so that examples do differ there, nothing is proved. Of
    examples at a relative distance d the mean leaves a residual of about d^2 / 100 to d^2 / 3, and rounding hides as
    much: what is proved is the claim to within the distance that the residual may hide, and no more.
    """
    claim, certificate = attempt.claim, attempt.certificate
    assert claim is not None
    assert certificate is not None
    if alone or told_count(seen) == len(claim):
        return _stated(attempt, certificate, said + assumed(seen))
    off = (math.inf,) * len(claim) if asked.near is None else asked.near(claim)
    # Not `>`, which NaN would pass.
    if not all(one <= ALIKE for one in off):
        return _withdrawn(attempt, NEARLY)
    layer = input_layer(seen.target)
    parameters = seen.target.parameters()
    values = claim.values.to(seen.target.device()).flatten(1)
    low, high = (
        bound.expand(claim.values.shape).flatten(1).to(values) for bound in seen.target.domain.bounds(claim.values)
    )
    bias = None if layer.bias is None else parameters[layer.bias]
    if bool(unseen(parameters[layer.weight], bias, values, (low, high), residual=certificate.residual).any()):
        return _withdrawn(attempt, BLIND)
    within = Certificate(off, (ALIKE,) * len(off), f"{HIDDEN}{certificate.statement}")
    return _stated(attempt, within, said + MEAN + assumed(seen))


def fed(seen: Observation, attempt: Attempt[Inputs], window: ContextWindow, *, size: float = 1.0) -> Attempt[Inputs]:
    """The last word of an attack that knows no transcripts: nothing can be replayed, and only windows are proved.

    size: the factor to which their size is, too; infinite where nothing shows it.
    """
    certificate, claim = attempt.certificate, attempt.claim
    if certificate is None or claim is None or not any(certificate.proved):
        return attempt
    why = strange(seen) or _outside(seen, claim) or drawn(seen) or _frames_altered(seen, claim, window)
    said = WINDOWS if size == 1 else STEPPED if size < float("inf") else UNSIZED
    # Two who say the same words in windows that the layer does not tell apart have one error at each frame.
    if not (seen.knows(BatchSize) or seen.knows(Lengths)):
        why = why or (BLIND if _windows_unseen(seen, claim, window, certificate.residual) else None)
        said += MEAN
    return _stated(attempt, certificate, said + assumed(seen)) if why is None else _withdrawn(attempt, why)


def _frames_altered(seen: Observation, claim: Inputs, window: ContextWindow) -> str | None:
    """Why the windows that the layer was fed need not be those of the private frames; None where no look shows it."""
    assert claim.lengths is not None
    name, _, parameter = window.weight.rpartition(".")
    # A layer that is no module is fed by code that nothing can listen to.
    if parameter != "weight" or name not in named(seen.target.module, *READERS):
        return None
    spoken = zip(claim.values, claim.lengths.tolist(), strict=True)
    one_by_one = any(alters_inputs(seen.target, row[None, :count], readers=(name,)) for row, count in spoken)
    return ALTERED if one_by_one else None


def _windows_unseen(seen: Observation, claim: Inputs, window: ContextWindow, residual: float) -> bool:
    """Whether the layer is blind to part of a claimed window, in which it may be the mean of several."""
    assert claim.lengths is not None
    weight, bias = (torch.from_numpy(one) for one in window.read(seen.target.parameters()))
    spoken = zip(claim.values.detach().double().cpu().numpy(), claim.lengths.tolist(), strict=True)
    around = [banded.windows(row[:count], left=window.left, right=window.right) for row, count in spoken]
    windows = torch.from_numpy(np.vstack(around))
    low, high = (bound.repeat(window.width) for bound in seen.target.domain.bounds(windows))
    return bool(unseen(weight.T, bias, windows, (low, high), residual=residual).any())


def strange(seen: Observation) -> str | None:
    """What the numbers of the update show that the declared mechanism does not do; None where nothing.

    >>> from torch import nn
    >>> from leakscope import FedSGD, Gradient, Images
    >>> target = Target(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), Images(1, 8, 8), 2)
    >>> signs = Gradient({"1.weight": torch.ones(2, 64), "1.bias": torch.ones(2)})
    >>> strange(Observation(target, signs, FedSGD()))
    'nearly all entries of the update have one size, as signs and first steps of Adam have'
    """
    found = contradictions(seen)
    return found[0].sentence if found else None


def contradictions(seen: Observation) -> tuple[Look, ...]:
    """What the numbers show that the declared mechanism does not do, with what to declare instead."""
    # Where a defense changes entries, their pattern is its own, and no certificate asks here.
    if keeps_ratios(seen.mechanism) is Answer.NO:
        return ()
    # Foreign tensors beside an update say nothing of it: three ones of a running mean have a round norm.
    own = {name: value for name, value in seen.release.by_name.items() if name in seen.target.parameters()}
    return looks(same_kind(seen.release, own)) if own else ()


def drawn(seen: Observation) -> str | None:
    """Why what the first layer was fed, proved or not, need not be the private input: augmentation inside the model.

    Whatever was drawn, the same model fed with the result gives the same update, and no replay can tell them apart.
    """
    return DRAWN if draws_first(seen.target) else None


def assumed(seen: Observation) -> str:
    """What a certificate says of draws in front of the first layer that looks at the model need not show."""
    return "" if runs_known_code(seen.target) else UNDRAWN


def _outside(seen: Observation, claim: Inputs) -> str | None:
    low, high = seen.target.domain.bounds(claim.values)
    slack = SLACK * (high - low)
    inside = (claim.values >= low - slack) & (claim.values <= high + slack)
    if claim.lengths is not None:
        # Padding is no frame, and zero need not be in the range.
        padding = torch.arange(claim.values.shape[1]) >= claim.lengths.cpu()[:, None]
        inside |= padding.to(inside.device)[..., None]
    if bool(inside.all()):
        return None
    return (
        "claimed values lie outside of the domain's range: the client changed its inputs, or the domain lacks a "
        "normalization (mean and std)"
    )


def _changed(target: Target) -> str | None:
    """Why what the first layer is fed may not be the input: a dropout or another draw before it, in either mode.

    Also in a model that was declared to be in eval mode. A dropped input, fed to the same model, gives the same update
    as an input that was black there, and no replay can tell them apart.
    """
    rates = [layer for layer in target.module.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]
    inputs = probe_inputs(target, PROBES, key=Key(0).child("fed"))
    fed = _fed(target, inputs)
    training = dataclasses.replace(target, training=True)
    # A feed may tell a batch from inputs alone, and every look at the model is at inputs alone.
    if not fed <= _fed_in_batch(target, inputs):
        return "in a batch with labels the first layer is fed another input than alone"
    # A model may drop by a function too, in which case the layers that read the input show it. Several times, for a
    # draw that changes one input in three leaves most probes as they are.
    kept = all(fed <= _fed(training, inputs, turn=turn) for turn in range(DRAWS))
    if rates and not (kept and not _fed(target, inputs, _DropoutNd)):
        return (
            "a dropout stands before the first layer, so what that was fed may be an input of which parts were dropped"
        )
    if draws_first(target):
        return DRAWN
    return None if kept else "in training mode the first layer is fed another input than in eval mode"


def _fed_in_batch(target: Target, inputs: Tensor) -> set[str]:
    """The same for inputs in a batch; nothing where the loss has no labels that the feed can do with."""
    try:
        return _fed(target, target.loss.labeled(inputs, target.classes))
    except BadInput:
        return set()


def _fed(target: Target, given: Tensor | Batch, *kinds: type[nn.Module], turn: int = 0) -> set[str]:
    """The names of the layers that are fed the input itself, to the last bit, in the draws number `turn`."""
    names = named(target.module, *(kinds or (nn.Linear, nn.Conv2d)))
    with recorded(target.module, names) as calls, Key(0).child("fed", turn).isolated(), torch.no_grad():
        target.outputs(target.parameters(), given)
    flat = (given.inputs if isinstance(given, Batch) else given).flatten()
    return {call.name for call in calls if call.given.numel() == len(flat) and torch.equal(call.given.flatten(), flat)}


def _unconfirmed(seen: Observation, claim: Inputs) -> str | None:
    """Why a claim that is not all of the batch may be a mixture, or of another size; None where the model confirms it.

    Units agree on mixtures where the errors of some examples are proportional. Those of the declared loss may differ,
    but nothing has confirmed it here: a hinge, or two classes, gives all examples of a class the same error e, and
    every unit that they wake together the mean of their inputs. And with dL/db in another scale than dL/dW, as under a
    rate for each tensor, they agree on a multiple. The output layer's gradient is sum_s e_s h_s^T. It has as many
    directions as there are examples only if their e_s are independent, and spans what that layer is fed at the claim.
    """
    if not seen.knows(BatchSize) or known_weights(seen.mechanism) is not Answer.YES:
        return "not all of the batch is claimed, and errors of several examples may be proportional"
    count = seen.told(BatchSize).count
    try:
        layer = output_layer(seen.target)
    except NoSuchLayer:
        return "not all of the batch is claimed, and no output layer shows whether errors are proportional"
    sent = seen.gradient().by_name.get(layer.weight)
    if sent is None or count >= min(sent.shape):
        return "not all of the batch is claimed, and the output layer's gradient cannot confirm what is"
    _, sizes, rows = torch.linalg.svd(sent.detach().double(), full_matrices=False)
    # A difference of weights has directions of its own rounding as well.
    least = INDEPENDENT * float(sizes[0]) + last_places(seen, layer.weight, float(torch.linalg.vector_norm(sizes)))
    if not float(sizes[count - 1]) > least:
        return (
            f"the output layer shows no {count} errors of as many directions, so that some may be proportional, and "
            "units agree on mixtures too; and the update as a whole is not that of the claim"
        )

    def away(factor: float) -> Tensor:
        fed = features_at(seen.target, factor * claim.values.to(seen.target.device())).double()
        left = fed - fed @ rows[:count].T @ rows[:count]
        found: Tensor = torch.linalg.vector_norm(left, dim=1) / torch.linalg.vector_norm(fed, dim=1).clamp_min(1e-300)
        return found

    # The last factors: a check that could not fail would show nothing.
    if float(away(1.0).max()) <= SPANNED and min(float(away(f).min()) for f in (OTHER, 1 / OTHER)) > SPANNED:
        return None
    return "the model, run on the claim, does not confirm it at the output layer"


def _binary(seen: Observation, claim: Inputs) -> str | None:
    """Steps of Adam divide each entry by its own size: of an input only signs are left, which look like an input."""
    if not isinstance(seen.release, Delta) or not any(one_size(value) for value in claim.values):
        return None
    return "an input is claimed whose values all have one size, as steps of Adam make of any input"


def _stated(attempt: Attempt[Inputs], certificate: Certificate, more: str) -> Attempt[Inputs]:
    return dataclasses.replace(
        attempt, certificate=dataclasses.replace(certificate, statement=certificate.statement + more)
    )


def _withdrawn(attempt: Attempt[Inputs], why: str) -> Attempt[Inputs]:
    assert attempt.claim is not None
    claim = dataclasses.replace(attempt.claim, confidence=None)
    return dataclasses.replace(attempt, claim=claim, certificate=None, sentence=f"{attempt.sentence}; no proof: {why}")


def miscounted(seen: Observation, found: int, what: str, *, each: bool = True) -> str | None:
    """Why `found` samples of the update need not be as many examples (`what` they are called); None where they are.

    Micro-batches that go round take three examples as four samples, and a pass that ends early takes three of five:
    where no number was told, of none that may stand behind what was found, and one more, for a pass that ends early.
    each: whether an example is one of them; a text has several, and its places are not counted against examples.
    """
    sizes = [seen.told(BatchSize).count] if seen.knows(BatchSize) else range(1, found + 2)
    answers = {evenly(seen, size) for size in sizes}
    if answers != {Answer.YES}:
        silent = Answer.NO not in answers
        return (
            "the protocol does not declare that it takes each example once"
            if silent
            else "the client may have taken some examples twice, or not at all"
        )
    if each and seen.knows(BatchSize) and sizes[0] != found:
        return f"{found} {what} were found, and {sizes[0]} told"
    return None
