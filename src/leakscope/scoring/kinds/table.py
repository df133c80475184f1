"""The one table of kinds: what is not in it cannot be scored, kept in a file, shown, or guessed blindly."""

from __future__ import annotations

from typing import Any

from leakscope.core.claim import AbstractClaim
from leakscope.core.errors import BadInput, UnknownName
from leakscope.scoring.kinds.attributes import PrivateAttributes
from leakscope.scoring.kinds.features import LayerFeatures
from leakscope.scoring.kinds.inputs import WholeInputs
from leakscope.scoring.kinds.kind import AbstractKind
from leakscope.scoring.kinds.labels import PrivateLabels
from leakscope.scoring.kinds.pieces import SaidPieces
from leakscope.scoring.kinds.sequences import Sequences
from leakscope.scoring.kinds.tokens import Texts
from leakscope.scoring.kinds.transcripts import PrivateTranscripts

Kind = AbstractKind[Any, Any, Any]
"""Any kind; what belongs together inside of it is checked where it is defined."""

KINDS: tuple[Kind, ...] = (
    # From the claim that says most to the one that says least, so that the answer of the blind control
    # is a picture, a text or frames rather than labels.
    WholeInputs(),
    Texts(),
    PrivateLabels(),
    Sequences(),
    PrivateTranscripts(),
    PrivateAttributes(),
    LayerFeatures(),
    SaidPieces(),
)
"""One of each. The blind control makes their claims in this order: the first that it can make is its answer."""


def kind_of(claim: AbstractClaim) -> Kind:
    """The kind of this claim. Raises `BadInput` where no kind of the table holds it.

    >>> from leakscope.core.claim import Tokens
    >>> kind_of(Tokens(((5, 3),)))
    Texts()
    """
    for kind in KINDS:
        if kind.holds(claim):
            return kind
    raise BadInput(f"no kind of claim holds {type(claim).__name__}; add its row to scoring/kinds/table.py")


def kind_named(name: str) -> Kind:
    """A kind whose claims have this name in a file. Raises `UnknownName`."""
    named = {kind.claims.__name__: kind for kind in KINDS}
    if name not in named:
        raise UnknownName("kind of claim", name, named)
    return named[name]
