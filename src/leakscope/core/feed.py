"""How a model is called on a batch, and which tensor of what it returns holds the logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput

Pick = str | int | None
"""The key or attribute, or the place, at which a model returns its logits; None to find them by their shape."""

FILLING = 0
"""The token id that fills up short sequences."""


@final
@dataclass(frozen=True, eq=False)
class Arguments:
    """What a forward is called with: tensors by place and by name."""

    by_place: tuple[Tensor, ...] = ()
    by_name: dict[str, Tensor] = field(default_factory=dict)


class AbstractFeed(ABC):
    """The public description of a model's signature; frozen, and rebuilt by its repr.

    The client and the adversary call the model by the same feed: it is part of the model, not of the mechanism.
    """

    @property
    @abstractmethod
    def pick(self) -> Pick:
        """Where the logits are in what the model returns."""

    @abstractmethod
    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """What the model is called with for `inputs` (B, *shape). rest: the batch around them, where there is one.

        Without `rest` (the model is only looked at) lengths are whole and labels are unknown. Differentiable in
        `inputs`. Raises `BadInput` where the batch lacks what the model takes.
        """

    @final
    def run(self, forward: Callable[[Arguments], object], given: Tensor | Batch, classes: int) -> Tensor:
        """The logits that `forward` gives for inputs alone or for a batch. Raises `BadInput` as `picked` does."""
        # inputs alone where the model is only looked at; then `arguments` fills in what can be known
        inputs, rest = (given.inputs, given) if isinstance(given, Batch) else (given, None)
        return picked(forward(self.arguments(inputs, rest)), self.pick, (len(inputs), classes))


def picked(returned: object, pick: Pick, wanted: tuple[int, int]) -> Tensor:
    """The logits among what a model returned; a tensor is taken as it is. wanted: (B, classes).

    With `pick`, the entry of that key, attribute or place. Without, the one tensor of shape (B, ..., classes).
    Raises `BadInput`, with what was found, when there is no such tensor, or more than one.

    >>> picked({"logits": torch.zeros(2, 3), "loss": torch.zeros(())}, None, (2, 3)).shape
    torch.Size([2, 3])
    >>> picked((torch.zeros(2, 3), torch.zeros(2, 3)), None, (2, 3))
    Traceback (most recent call last):
    leakscope.core.errors.BadInput: the model returns a tuple, expected one tensor of logits (2, 3); it has 0 (2, 3), \
1 (2, 3): name the right one, as in feed=InputsOnly(pick=0)
    >>> picked((torch.zeros(2, 3), torch.ones(2, 3)), 1, (2, 3)).sum()
    tensor(6.)
    """
    if isinstance(returned, Tensor):
        if pick is not None:
            raise BadInput(f"the model returns one tensor {tuple(returned.shape)}; leave out pick={pick!r} of its feed")
        return returned
    # what is not one tensor has to be chosen from: a wrong choice is a wrong loss, so nothing is guessed where two fit
    found = _tensors(returned, by_place=isinstance(pick, int))
    if isinstance(pick, str) and not isinstance(returned, Mapping):
        found |= _tensors({pick: getattr(returned, pick, None)}, by_place=False)  # a property is in no list
    if pick is not None and pick in found:
        return found[pick]
    # logits have the examples first and the classes last; a model of sequences has the steps between
    likely = [name for name, value in found.items() if value.dim() >= 2 and _ends(value) == wanted]
    if pick is None and len(likely) == 1:
        return found[likely[0]]
    kind = type(returned).__name__
    if not found:
        raise BadInput(
            f"the model returns a {kind}, expected one tensor of logits {wanted}; wrap it so that forward returns them"
        )
    shown = ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())
    example = likely[0] if likely else next(iter(found))
    asked = "" if pick is None else f" at {pick!r}"
    raise BadInput(
        f"the model returns a {kind}, expected one tensor of logits {wanted}{asked}; it has {shown}: name the right "
        f"one, as in feed=InputsOnly(pick={example!r})"
    )


def _ends(value: Tensor) -> tuple[int, int]:
    return (int(value.shape[0]), int(value.shape[-1]))


def _tensors(returned: object, *, by_place: bool) -> dict[str | int, Tensor]:
    """The tensors of a mapping by key, of a sequence by place (or by name where it has names), else by attribute."""
    parts: dict[str | int, object]
    if isinstance(returned, Mapping):
        parts = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, Sequence) and not isinstance(returned, str | bytes):
        # a named tuple under its names or its places, never both: one tensor would look like two
        fields: Sequence[str] = () if by_place else getattr(returned, "_fields", ())
        parts = dict(zip(fields or range(len(returned)), returned, strict=True))
    else:
        parts = dict(getattr(returned, "__dict__", {}))
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def _checked(pick: Pick) -> None:
    if pick is not None and (isinstance(pick, bool) or not isinstance(pick, str | int)):
        raise BadInput(f"expected pick to be a name, a place or None, got {pick!r}")


def _lengths(inputs: Tensor, rest: Batch | None) -> Tensor:
    """(B,) the batch's own, or all that there is."""
    if rest is not None and rest.lengths is not None:
        return rest.lengths
    if inputs.dim() < 2:
        raise BadInput(f"lengths need sequences (B, T, ...), got inputs of shape {tuple(inputs.shape)}")
    # all frames real: the model then reads padding as silence, as a model without lengths does
    return torch.full((len(inputs),), inputs.shape[1], device=inputs.device)


@final
@dataclass(frozen=True)
class InputsOnly(AbstractFeed):
    """forward(inputs). pick: see `picked`; a model that returns one tensor needs none.

    >>> InputsOnly().arguments(torch.zeros(2, 3), None).by_place[0].shape
    torch.Size([2, 3])
    """

    pick: Pick = None

    def __post_init__(self) -> None:
        _checked(self.pick)

    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """The inputs alone."""
        del rest
        return Arguments((inputs,))


@final
@dataclass(frozen=True)
class WithLengths(AbstractFeed):
    """forward(inputs, lengths): sequences (B, T, ...) and how many of their frames are real, (B,) int64.

    A batch without lengths is taken to be whole: T each.

    >>> WithLengths().arguments(torch.zeros(2, 5, 3), None).by_place[1]
    tensor([5, 5])
    """

    pick: Pick = None

    def __post_init__(self) -> None:
        _checked(self.pick)

    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """The inputs and their lengths."""
        return Arguments((inputs, _lengths(inputs, rest)))


@final
@dataclass(frozen=True)
class TeacherForced(AbstractFeed):
    """forward(inputs, tokens), or forward(inputs, lengths, tokens): a decoder that is told what was said so far.

    Of the tokens (B, L) int64, t_b,0 = start and t_b,i = y_b,i-1 with the batch's label sequences y (B, L): output i is
    asked for label i and has seen the labels before it, never itself. Where there is no batch (the model is only
    looked at), the tokens are the start alone, (B, 1). start: the id that begins a sentence, >= 0.
    Raises `BadInput` on a negative start, and for a batch without label sequences.

    >>> sound = torch.zeros(1, 4, 2)
    >>> said = Batch(sound, torch.tensor([[7, 8, 9]]), torch.tensor([4]), torch.tensor([3]))
    >>> TeacherForced(start=1).arguments(sound, said).by_place[1]
    tensor([[1, 7, 8]])
    """

    start: int
    lengths: bool = False
    pick: Pick = None

    def __post_init__(self) -> None:
        _checked(self.pick)
        if isinstance(self.start, bool) or not isinstance(self.start, int) or self.start < 0:
            raise BadInput(f"expected the id of the token that begins a sentence, start >= 0, got {self.start!r}")
        if not isinstance(self.lengths, bool):
            raise BadInput(f"expected lengths to be True or False, got {self.lengths!r}")

    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """The inputs, their lengths where the model takes them, and the shifted labels."""
        first = torch.full((len(inputs), 1), self.start, device=inputs.device)
        tokens = first
        if rest is not None:
            if rest.label_lengths is None:
                raise BadInput("a teacher-forced model needs label sequences: give the batch lengths and label_lengths")
            # shifted by one: were output i given label i, it would copy it, and the gradient would say little
            tokens = torch.cat([first, rest.labels[:, :-1]], 1)
        between = (_lengths(inputs, rest),) if self.lengths else ()
        return Arguments((inputs, *between, tokens))


@final
@dataclass(frozen=True)
class Keywords(AbstractFeed):
    """forward(name=tensor, ...), as the models of Hugging Face are called.

    inputs, lengths, mask, labels: the keyword of each, or None for what the model does not take. mask: (B, T) int64, 1
    at what is real: tokens other than the filling (id 0), or frames before the end of the utterance.
    labels are left out where there is no batch. Raises `BadInput` on a keyword that is none, or is used twice.

    >>> ids = torch.tensor([[5, 6, 0]])
    >>> Keywords(mask="attention_mask").arguments(ids, None).by_name
    {'input_ids': tensor([[5, 6, 0]]), 'attention_mask': tensor([[1, 1, 0]])}
    """

    inputs: str = "input_ids"
    lengths: str | None = None
    mask: str | None = None
    labels: str | None = None
    pick: Pick = None

    def __post_init__(self) -> None:
        _checked(self.pick)
        names = [name for name in (self.inputs, self.lengths, self.mask, self.labels) if name is not None]
        odd = [name for name in names if not isinstance(name, str) or not name.isidentifier()]
        if odd or len(set(names)) < len(names):
            raise BadInput(f"expected different keywords of the model's forward, got {', '.join(map(repr, names))}")

    def arguments(self, inputs: Tensor, rest: Batch | None) -> Arguments:
        """What the model takes, by name."""
        by_name = {self.inputs: inputs}
        if self.lengths is not None:
            by_name[self.lengths] = _lengths(inputs, rest)
        if self.mask is not None:
            by_name[self.mask] = _mask(inputs, rest)
        # left out where there are none: a model that wants labels computes a loss of its own, which is not read
        if self.labels is not None and rest is not None:
            by_name[self.labels] = rest.labels
        return Arguments((), by_name)


def _mask(inputs: Tensor, rest: Batch | None) -> Tensor:
    # padding that attention may look at changes the outputs of every short text
    if inputs.dim() == 2 and not inputs.is_floating_point():
        return (inputs != FILLING).long()
    return (torch.arange(inputs.shape[1], device=inputs.device) < _lengths(inputs, rest)[:, None]).long()
