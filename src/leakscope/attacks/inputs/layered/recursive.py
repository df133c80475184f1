"""Exact inputs of convolutional networks, layer by layer from the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from leakscope.attacks import citations
from leakscope.attacks.attack import AbstractAttack
from leakscope.attacks.inputs.layered.activations import Known, inverted
from leakscope.attacks.labels.signs import SINGLE, LabelSigns
from leakscope.attacks.parts.reading.output_gradient import only_row_pattern, read_output, told_one
from leakscope.attacks.parts.reading.proof import bent, settled
from leakscope.attacks.parts.reading.replayed import MOST_PASSES
from leakscope.attacks.parts.reading.scaled_error import OneFactor
from leakscope.attacks.parts.reading.trained import NOT_TRAINED
from leakscope.core.asking import gradient_of, replay_of
from leakscope.core.attempt import Attempt, Certificate, Outcome
from leakscope.core.batch import Batch
from leakscope.core.claim import Inputs
from leakscope.core.effort import Clock, Progress, Watch
from leakscope.core.facts import BatchSize, TrueLabels
from leakscope.core.observation import Observation
from leakscope.core.overriding import acts_as
from leakscope.core.refusal import Refusal
from leakscope.core.target import CrossEntropy
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import clipped, keeps_ratios
from leakscope.mechanisms.running import passes
from leakscope.numerics import trees
from leakscope.numerics.convolution import System, Unfolded
from leakscope.numerics.rng import Key, normal
from leakscope.targets.looking.layer_chain import Link, layer_chain

Array = NDArray[np.float64]

DTYPES = (torch.float64, torch.float32)
EXACT = 1e-2
"""Largest estimated relative error of an image that counts as exact; an error of one percent is 40 dB or more."""
TURNS = 3
"""How often the gradient is changed and undone again."""
CAUTION = 4.0
"""What the change of the image is multiplied by: the image was fitted to the release, so that the two differ by less
than the release is wrong."""
CONTRADICTED = 0.3
"""Relative residual of the replayed gradient beyond which nothing is claimed."""
LARGEST = 8192
"""Most unknowns of one layer whose equations have to be formed: they take 8 bytes times its square."""
STATEMENT = (
    "4 times the largest relative change of the image when the gradient that autograd replays at it is changed, tensor "
    "by tensor, by as much as it differs from the release, and undone again"
)


@final
@dataclass(frozen=True, eq=False)
class _Undone:
    """The input of a layer, (n,) or (C, pixels) flattened, and the loss's derivative by it."""

    x: Array
    slope: Array
    sentence: str


@final
@dataclass(frozen=True)
class Recursive(AbstractAttack[tuple[Link, ...], Inputs]):
    """The image behind the gradient of one example, from the last layer to the first (Zhu and Blaschko 2021, R-GAP).

    At each layer z = W x (+ b) the error delta = dL/dz and the values z are known from the layer after it, as far as
    its activation can be inverted, so x solves two sets of linear equations: dL/dW = delta * unfold(x) (gradient
    constraints) and W x = z (weight constraints). Source: arXiv:2010.07733, sections 3 and 4; the unfolding makes
    both products. At the output delta is dL/db, or without bias it follows from the label and the rank-one dL/dW.

    Chains of Conv2d and Linear with ReLU, LeakyReLU, ELU, Tanh, Sigmoid or Softplus between them; others are refused by
    name. The rank test refuses beforehand where a layer has fewer equations than unknowns, and during the recursion
    where they are dependent (smallest singular value below 1e-6 of the largest).
    The certificate replays the gradient at the claim by autograd, changes it at random by as much as it differs from
    the release, and undoes it again, several times: the largest relative change of the image, times `CAUTION`, bounds
    the error that such a difference leaves. There is none unless one example was told (the mean of a batch of one class
    can have the gradient of its mean image), and none where the scale of the update matters and may be a clipped one.
    """

    @property
    def citation(self) -> str:
        """Zhu and Blaschko 2021."""
        return citations.RGAP

    def _read(self, seen: Observation) -> tuple[Link, ...] | Refusal:
        return _links(seen)

    def _attempt(
        self, seen: Observation, read: tuple[Link, ...], *, key: Key, clock: Clock, watch: Watch
    ) -> Attempt[Inputs]:
        links = read
        label = _label(seen, key)
        if isinstance(label, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, label.sentence)
        # Buffers are no part of a gradient, nor of the norm that the replay is judged by.
        sent = trees.select(seen.gradient().by_name, seen.target.parameters())
        gradient = {name: value.double().cpu() for name, value in sent.items()}
        undone, steps = _recursion(seen, links, gradient, label, watch)
        if isinstance(undone, Refusal):
            return Attempt(repr(self), Outcome.REFUSED, undone.sentence, steps=steps)
        like = next(iter(seen.target.parameters().values()))
        # In the model's own dtype before it is judged: the replay is that of the image as it is claimed.
        values = torch.from_numpy(undone).reshape(1, *seen.target.domain.shape).to(like.dtype)
        if not bool(torch.isfinite(values).all()):
            return Attempt(repr(self), Outcome.DIVERGED, "the layers' equations have no finite solution", steps=steps)
        replayed, apart = _replayed(seen, values.to(like.device), label)
        residual = float(trees.norm(apart) / trees.norm(gradient))
        # Not `>`, which a residual of NaN would pass.
        if not residual <= CONTRADICTED:
            sentence = f"the gradient at the image found differs from the release by {residual:.1e} of its norm"
            return Attempt(repr(self), Outcome.DIVERGED, sentence, steps=steps)
        certificate = None
        if bent(seen) is None and told_one(seen) and _scale_known(seen, links):
            # The replayed gradient leads back to the image; one that is off by as much as the release was shows how far
            # such an error moves the image, however badly the layers are conditioned.
            shaken = [_shaken(replayed, apart, key.child("shaken", turn)) for turn in range(TURNS)]
            moved = max(_moved(_recursion(seen, links, one, label, watch)[0], undone) for one in shaken)
            certificate = Certificate.alike(CAUTION * moved, EXACT, STATEMENT)
        certified = certificate is not None and certificate.holds
        claim = Inputs(values, torch.tensor([label]), torch.ones(1) if certified else None)
        sentence = f"one image through {len(links)} layers; the gradient at it is the release to {residual:.1e}"
        return settled(seen, Attempt(repr(self), Outcome.CLAIMED, sentence, claim, certificate, steps=steps))


def _moved(again: Array | Refusal, undone: Array) -> float:
    """The relative change of the image; infinite where the recursion ended early, or the image is zero."""
    if isinstance(again, Refusal):
        return float("inf")
    size = float(np.linalg.norm(undone))
    return float(np.linalg.norm(again - undone)) / size if size > 0 else float("inf")


def _scale_known(seen: Observation, links: tuple[Link, ...]) -> bool:
    """Whether the gradient is released at its own size, or its size does not matter.

    Without the output layer's bias gradient the scale of its input is found from the size.
    """
    return links[-1].bias in seen.release.by_name or clipped(seen) is Answer.NO


def _recursion(
    seen: Observation, links: tuple[Link, ...], gradient: dict[str, Tensor], label: int, watch: Watch
) -> tuple[Array | Refusal, tuple[str, ...]]:
    """The input of the first layer, flat, or the sentence that says where it ended; and what each layer gave."""
    # From the output down: each layer gives x, which the one before returned, and dL/dx.
    undone = _output(seen, links[-1], gradient, label)
    steps: list[str] = []
    for done, link in enumerate(reversed(links[:-1]), start=1):
        if isinstance(undone, Refusal):
            break
        steps.append(undone.sentence)
        watch(Progress(done / len(links), float("nan"), f"layer {link.name!r}"))
        undone = _undo(link, undone, gradient)
    if isinstance(undone, Refusal):
        return undone, tuple(steps)
    return undone.x, (*steps, undone.sentence)


def _replayed(seen: Observation, values: Tensor, label: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradient at an image by the mechanism's own replay, and its difference from the observed one, in float64."""
    batch = Batch(values, torch.tensor([label], device=values.device))
    sent = seen.gradient().by_name
    # By autograd, which shares no equation with the recursion: a wrong one cannot confirm itself.
    expected = replay_of(seen.step, seen.target, batch, trees.select(seen.release.by_name, seen.target.parameters()))
    replayed = gradient_of(seen.step, expected, seen.target.parameters()).by_name
    gradient = {n: v.detach().double().cpu() for n, v in replayed.items() if n in sent}
    return gradient, {n: v - sent[n].double().cpu() for n, v in gradient.items()}


def _shaken(gradient: dict[str, Tensor], apart: dict[str, Tensor], key: Key) -> dict[str, Tensor]:
    """The gradient with normal noise in each tensor, of the relative size at which replay and release differ."""
    shaken = {}
    for name, value in gradient.items():
        # Each tensor by its own difference, |size noise| = |apart|: what agrees exactly stays as it is.
        noise = normal(value, key.child(name))
        size = float(apart[name].norm() / noise.norm().clamp_min(1e-300))
        shaken[name] = value + size * noise
    return shaken


def _links(seen: Observation) -> tuple[Link, ...] | Refusal:
    """The chain of layers, or why it cannot be undone; by counting, without looking at a number."""
    if seen.knows(BatchSize) and seen.told(BatchSize).count > 1:
        return Refusal(f"undoes the gradient of one example, told BatchSize({seen.told(BatchSize).count})")
    if passes(seen.mechanism) > MOST_PASSES:
        return Refusal(f"replays what it finds, which takes {passes(seen.mechanism)} passes over the model here")
    links = layer_chain(seen.target)
    gradient = seen.gradient().by_name
    missing = [link.weight for link in links if link.weight not in gradient]
    if missing:
        return Refusal(f"the release lacks {' and '.join(missing)}")
    coarse = next((gradient[link.weight].dtype for link in links if gradient[link.weight].dtype not in DTYPES), None)
    if coarse is not None:
        return Refusal(f"the update is {coarse}: errors grow from layer to layer, which takes float32")
    if not seen.knows(TrueLabels):
        output = read_output(seen)
        if isinstance(output, Refusal):
            return output
        if output.weight is None:
            return Refusal(f"the gradient of {output.layer.weight} {NOT_TRAINED}")
        # dL/dW = (p - y) x^T of one example has parallel rows. No reason to refuse with two classes, where those of a
        # batch are parallel too, nor after entries were changed one by one, when those of one example are not.
        alike = only_row_pattern(output.weight)[1]
        if (
            seen.target.classes > 2
            and not seen.knows(BatchSize)
            and alike > SINGLE
            and keeps_ratios(seen.mechanism) is not Answer.NO
        ):
            return Refusal("the gradient of the output layer is not that of one example")
    for link in links[:-1]:
        short = _short(link)
        if short is not None:
            return short
    return links


def _short(link: Link) -> Refusal | None:
    """Why the equations of a layer cannot suffice, by their number alone."""
    unknowns, values = int(np.prod(link.given)), int(np.prod(link.returned))
    if isinstance(link.layer, nn.Linear):
        return None  # delta x^T gives x as soon as one delta is not zero
    # W x = z is one equation for each output, dL/dW = delta * unfold(x) one for each weight. Outputs at rest give none,
    # which only the recursion can count.
    equations = values + link.layer.weight.numel()
    if equations < unknowns:
        return Refusal(
            f"layer {link.name!r} has {values} weight and {link.layer.weight.numel()} gradient constraints "
            f"for {unknowns} unknowns: its input is not determined"
        )
    pixels = int(np.prod(link.given[1:]))
    # The gradient constraints of one input channel, O K of them, must determine its pixels; else all channels are
    # solved together by a matrix of unknowns squared.
    if unknowns > LARGEST and pixels > int(link.returned[0]) * link.layer.weight[0, 0].numel():
        return Refusal(f"layer {link.name!r} has {unknowns} unknowns, more than the {LARGEST} that fit in memory")
    return None


def _label(seen: Observation, key: Key) -> int | Refusal:
    if seen.knows(TrueLabels):
        return seen.told(TrueLabels).values[0]
    attempt = LabelSigns().run(seen, key=key)
    if attempt.claim is None or len(attempt.claim) != 1:
        return Refusal(f"needs the label of one example: {attempt.sentence}")
    return int(attempt.claim.values[0])


def _output(seen: Observation, link: Link, gradient: dict[str, Tensor], label: int) -> _Undone | Refusal:
    """The output layer: dL/dW = delta x^T, with delta from the bias or from the loss."""
    weight = link.layer.weight.detach().double().cpu().numpy()
    slope = gradient[link.weight].numpy()
    if link.bias is not None and link.bias in gradient:
        # For one example dL/db is delta itself.
        errors = gradient[link.bias].numpy()
    else:
        found = _scaled_errors(seen, link, slope, label)
        if isinstance(found, Refusal):
            return found
        errors = found
    if not errors.any():
        return Refusal(f"the error at the output layer {link.name!r} is zero: the gradient says nothing")
    # min_x |dL/dW - delta x^T|^2: x = delta^T dL/dW / |delta|^2. And z = W x + b gives dL/dx = W^T delta.
    x = errors @ slope / (errors @ errors)
    return _Undone(x, weight.T @ errors, f"layer {link.name!r}: {x.size} values from the ratio of its gradients")


def _scaled_errors(seen: Observation, link: Link, slope: Array, label: int) -> Array | Refusal:
    """delta (C,) without a bias gradient: slope = delta x^T up to a factor, and delta = softmax(W x + b) - q."""
    if not acts_as(seen.target.loss, CrossEntropy):
        return Refusal(f"layer {link.name!r} has no bias gradient, and {seen.target.loss!r} gives no scale")
    weight = link.layer.weight.detach().double().cpu().numpy()
    bias = np.zeros(len(weight)) if link.layer.bias is None else link.layer.bias.detach().double().cpu().numpy()
    found = OneFactor(slope, weight, bias).solved(label, seen.target.loss.smoothing)
    if found is None:
        return Refusal(f"no scale of the input of the output layer {link.name!r} agrees with label {label}")
    return found.errors


def _undo(link: Link, after: _Undone, gradient: dict[str, Tensor]) -> _Undone | Refusal:
    """The input of a layer from what is known of its output."""
    # x of the layer after this one is y = act(z) here: z by its inverse, delta = dL/dz = dL/dy dy/dz.
    known = inverted(link.activation, after.x, after.slope)
    slope = gradient[link.weight].flatten(1).numpy()
    if isinstance(link.layer, nn.Linear):
        return _dense(link, known, slope, gradient)
    layer = Unfolded.of(link.layer, link.given)
    shape = (len(layer.weight), -1)
    # Rows are outputs o, columns places p, as in `Unfolded`. Weight constraints have weight dy/dz: none at rest, little
    # where y is saturated.
    system = System(layer, known.values.reshape(shape), known.sure.reshape(shape), known.errors.reshape(shape), slope)
    solved = system.solve()
    if solved is None:
        return Refusal(
            f"layer {link.name!r}: its {int((known.sure > 0).sum())} weight and {slope.size} gradient constraints are "
            f"dependent, they leave some of its {layer.channels * layer.pixels} unknowns open"
        )
    said = (
        f"layer {link.name!r}: {solved.x.size} values, smallest singular value {solved.least:.1e} of the largest or "
        f"more, residual {solved.residual:.1e}"
    )
    # dL/dx = W^T delta, summed over the windows that see a pixel.
    return _Undone(solved.x.reshape(-1), layer.back(system.errors).reshape(-1), said)


def _dense(link: Link, known: Known, slope: Array, gradient: dict[str, Tensor]) -> _Undone | Refusal:
    # delta from the layers above carries their errors; the bias gradient is delta as released.
    errors = known.errors
    if link.bias is not None and link.bias in gradient:
        errors = gradient[link.bias].numpy()
    if not errors.any():
        return Refusal(f"layer {link.name!r}: no unit is active, its gradient is zero")
    # dL/dW = delta x^T gives all of x as soon as one delta is not zero, so W x = z is not needed.
    x = errors @ slope / (errors @ errors)
    weight = link.layer.weight.detach().double().cpu().numpy()
    return _Undone(x, weight.T @ errors, f"layer {link.name!r}: {x.size} values from the ratio of its gradients")
