"""The transcript of every utterance behind one update of a model that is trained by CTC, with a certificate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.attacks.attack import AbstractAttack, Attack, Ready
from leakscope.attacks.inputs.frames.exact.repeats import undetermined
from leakscope.attacks.inputs.frames.exact.windowed_frames import WindowedFrames
from leakscope.attacks.parts.reading.proof import assumed, undeclared
from leakscope.attacks.transcripts.exact.dropout import Peeled, peeled
from leakscope.attacks.transcripts.exact.occupancy import Occupied, Spoken, counted, last_layer, occupied
from leakscope.attacks.transcripts.exact.reading import UNCLEAR, Reading, occupancy_noise, read
from leakscope.attacks.transcripts.exact.repairing import outright
from leakscope.attacks.transcripts.exact.silent_labels import silent_labels
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.claim import Inputs, Transcripts
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.errors import BadInput, NoSuchLayer
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.numerics.rng import Key
from leakscope.targets.looking.context_window import context_window
from leakscope.targets.losses import CTC

MUDDLED = 1e-3
"""Relative residual of a layer fed by dropout from which on its masks are wrong: right ones leave rounding or noise."""
FOREIGN = 0.01
"""Squared misfit per frame above which a string has nothing to do with the occupancies."""
NEAR = 0.2
"""How far the divisor that the first frame tells may be off the one that the loss declares."""
MOST_DIVISORS = 6
"""So many numbers of labels are tried for one utterance."""
STATEMENT = "the transcript's CTC occupancies are those in the output layer's gradient (sum of squared differences)"


@final
@dataclass(frozen=True)
class CtcTranscript(AbstractAttack[Ready[Inputs], Transcripts]):
    """The label string z whose CTC occupancies gamma_t(z) are those in the update; exact where the frames are.

    The gradient of the output layer is dL/dW = sum_t (y_t - gamma_t) h_t^T / n. `frames` claims what the model was fed,
    a pass of the known model gives h_t and y_t = softmax(W h_t + b), and linear least squares give gamma_t, for all
    utterances of a batch together. n is 1 or the number of labels, as the loss says, or more where the update was
    clipped; the first frame tells it. What dropout dropped is peeled off layer by layer (`peel`). z is then read from
    left to right (`decode`): no language, lexicon or length is assumed.

    The certificate is the sum over frames and classes of (gamma_t(z) - gamma_t)^2 for the utterance where it is
    largest against its tolerance: 30 times what rounding explains (4 times what the noise of absent classes explains),
    at most a quarter of what the same transcript costs with any two neighboring labels swapped and, under noise, half
    of what any string one edit away costs.
    Claims one tuple of labels per utterance.
    """

    frames: Attack[Inputs] = field(default_factory=WindowedFrames)

    def __post_init__(self) -> None:
        if not isinstance(self.frames, AbstractAttack):
            raise BadInput(f"expected an attack that claims frames, got {self.frames!r}")

    @property
    def citation(self) -> str:
        """That of the attack on the frames; the rest is leakscope's own."""
        return self.frames.citation

    def _read(self, seen: Observation) -> Ready[Inputs] | Refusal:
        if not acts_as(seen.target.loss, CTC):
            return Refusal(f"needs a model that is trained by CTC, got {seen.target.loss!r}")
        # For its refusal alone: a release without that gradient need not be solved for frames.
        last_layer(seen)
        return self.frames.ready(seen)

    def _attempt(
        self, seen: Observation, read: Ready[Inputs], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Transcripts]:
        fed = read.run(key=key.child("frames"), clock=clock.remaining().start(), watch=watch)
        if not isinstance(fed.claim, Inputs) or fed.claim.lengths is None:
            return Attempt(repr(self), Outcome.REFUSED, f"no frames, so no transcript: {fed.sentence}", cost=fed.cost)
        # Without the padding: a frame of zeros would be one more unknown in every least squares.
        frames = [row[:count] for row, count in zip(fed.claim.values, fed.claim.lengths.tolist(), strict=True)]
        try:
            # h_t is what the client fed its output layer, masks included; without them other inputs would be fitted.
            masks = peeled(seen, frames)
        except NoSuchLayer as error:
            return Attempt(repr(self), Outcome.REFUSED, str(error), cost=fed.cost)
        # The largest of all layers: one wrong entry may leave only 5e-5 in the layer that it feeds, but it spoils the
        # inputs of all layers after it.
        if masks.worst > MUDDLED:
            sentence = f"the masks of dropout are not exact: they leave {masks.worst:.1e} of the next layer's gradient"
            return Attempt(repr(self), Outcome.REFUSED, sentence, cost=fed.cost)
        found = occupied(seen, frames, masks.masks)
        if isinstance(found, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, found.sentence, cost=fed.cost)
        mean = counted(seen)
        divisors = [_divisors(one, mean) for one in found.utterances]
        pairs = list(zip(found.utterances, divisors, strict=True))
        # gamma = y - n e has n times the noise of e, so it takes a divisor to say it: the likeliest.
        noise = max(occupancy_noise(one.evidence(likely[0])) for one, likely in pairs)
        # Not `>=`: NaN is illegible too.
        if not noise < UNCLEAR:
            return Attempt(repr(self), Outcome.REFUSED, _unclear(noise, found), cost=fed.cost)
        goings = [_going(clock, watch, place, len(frames)) for place in range(len(frames))]
        readings = [_read(*pair, mean=mean, going=going) for pair, going in zip(pairs, goings, strict=True)]
        attempt = _attempted(repr(self), readings, found, fed, _steps(fed, masks), assumes=assumed(seen))
        # Confidence 1 says proved, so it goes with the certificate; the labels stay claimed.
        doubt = undeclared(seen)
        if doubt is None and attempt.claim is not None and attempt.certificate is not None:
            # runs the model, so only where something is proved
            most = max(max(likely) for likely in divisors)
            doubt = _repeating(seen, frames, found.residual, most) if any(attempt.certificate.proved) else None
        if doubt is None or attempt.claim is None:
            return attempt
        claim = Transcripts(attempt.claim.labels)
        sentence = f"{attempt.sentence}; no proof: {doubt.sentence}"
        return dataclasses.replace(attempt, claim=claim, certificate=None, sentence=sentence)


def _repeating(seen: Observation, frames: list[Tensor], residual: float, divisor: float) -> Refusal | None:
    """Why the frames may be too few: occupancies of merged or missing frames are those of another number of frames."""
    try:
        window = context_window(seen.target)
    except (NoSuchLayer, BadInput):  # of a model that sees no windows nothing merges
        return None
    known = [one.detach().double().cpu().numpy() for one in frames]
    return undetermined(seen, known, window) or silent_labels(seen, known, window, residual, divisor)


def _unclear(noise: float, found: Occupied) -> str:
    return (
        f"the occupancies are known to {noise:.1e} only, where {UNCLEAR} is legible: the output layer's inputs leave "
        f"{found.residual:.1e} of its gradient, so there is noise in it, or there were several steps, or the frames "
        "of an utterance that the model knows by heart are hidden behind the others"
    )


def _steps(fed: Attempt[Inputs], masks: Peeled) -> tuple[str, ...]:
    peeled_off = f"masks of {len(masks.masks)} dropout layers, relative residual {masks.worst:.1e} of what they feed"
    return (fed.sentence, peeled_off) if masks.masks else (fed.sentence,)


def _going(clock: Clock, watch: Watch, place: int, count: int) -> Callable[[float], bool]:
    def going(share: float) -> bool:
        watch(Progress((place + share) / count, float("nan"), f"reading transcript {place + 1} of {count}"))
        return not clock.exhausted(0)

    return going


def _divisors(one: Spoken, mean: bool) -> list[float]:
    """What the loss may have been divided by, the likeliest first.

    What the first frame says decides where it says it clearly: a clipped update is divided by more than the loss says.
    Else it is what the loss says: 1, or the number of labels, which is about that of the string that is legible.
    """
    seen, deviation = one.divisor()
    # Sure of its first and last frame, the model leaves y = 0 elsewhere, hence e = 0: no ratio to read.
    if deviation > NEAR * seen:
        # With 1 for n the occupancies come out as (1 - 1 / n) y + gamma / n, which is as legible as y where y is near
        # gamma, as it is in a model so sure.
        count = len(outright(one.evidence(1.0)))
        return [float(n) for n in dict.fromkeys([max(1, count), count + 1, max(1, count - 1)])] if mean else [1.0]
    # A string of n labels needs n frames; beyond that the factor is no number of labels but that of a clip.
    declared = round(seen) if mean else 1
    if 1 <= declared <= len(one.probabilities) and abs(seen - declared) < max(NEAR, 5 * deviation):
        return [declared, declared + 1, max(1, declared - 1), seen] if mean else [1.0]
    # Clipping to norm C sends C / |g| of the gradient, so that n |g| / C is seen, any real number.
    return [seen] if mean else [seen, 1.0]


def _read(one: Spoken, divisors: list[float], *, mean: bool, going: Callable[[float], bool]) -> Reading:
    """The best reading with any of the divisors; with a mean, also with the number of the labels that were read."""
    best: Reading | None = None
    divisors = list(divisors)
    # The list grows while it is gone through.
    for divisor in divisors:
        heard = one.evidence(divisor)
        # A divisor so wrong that absent classes seem to hold frames; the first is read in any case.
        if best is not None and not occupancy_noise(heard) < UNCLEAR:
            continue
        found = read(heard, going=going)
        # By misfit over tolerance: misfits of different divisors are not in the same units of noise.
        best = found if best is None or found.ratio < best.ratio else best
        if best.certain or not going(1.0):
            break
        # The number of labels is the divisor: what was read, even if a little wrong, says which to try next.
        if mean and len(divisors) < MOST_DIVISORS and found.labels and len(found.labels) not in divisors:
            divisors.append(float(len(found.labels)))
    assert best is not None
    return best


def _attempted(
    name: str,
    readings: list[Reading],
    found: Occupied,
    fed: Attempt[Inputs],
    steps: tuple[str, ...],
    *,
    assumes: str,
) -> Attempt[Transcripts]:
    frames = [len(spoken.probabilities) for spoken in found.utterances]
    # Only if it is so of every utterance: one that is explained is worth claiming beside others that are not.
    if all(one.misfit > FOREIGN * count for one, count in zip(readings, frames, strict=True)):
        least = min(one.misfit for one in readings)
        sentence = f"no string of labels explains the occupancies: the best one's misfit is {least:.1e}"
        return Attempt(name, Outcome.DIVERGED, sentence, cost=fed.cost)
    worst = max(readings, key=lambda one: one.ratio)
    certificate = Certificate(
        tuple(one.misfit for one in readings), tuple(one.tolerance for one in readings), STATEMENT + assumes
    )
    certain = sum(one.certain for one in readings)
    # 1 is proof; how probable a string is that is not proved, nothing here tells.
    confidence = torch.tensor([1.0 if one.certain else float("nan") for one in readings])
    sizes = ", ".join(str(len(one.labels)) for one in readings)
    # A single label has no neighbor to change places with.
    swapped = f", {worst.swapped:.1e} with two neighbors swapped" if math.isfinite(worst.swapped) else ""
    sentence = (
        f"transcripts of {sizes} labels, {certain} of {len(readings)} proved: misfit {worst.misfit:.1e} of the "
        f"occupancies{swapped}; relative residual {found.residual:.1e} of the output layer"
    )
    # Strings were read in the places of the letters, which are those of the classes only where the blank is the last.
    said = zip(readings, found.utterances, strict=True)
    spelled = tuple(tuple(int(spoken.letters[place]) for place in one.labels) for one, spoken in said)
    claim = Transcripts(spelled, confidence)
    return Attempt(name, Outcome.CLAIMED, sentence, claim, certificate, fed.cost, steps=steps)
