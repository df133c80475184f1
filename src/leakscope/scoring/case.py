"""What a claim is held against: the secret, and what anybody may know of such secrets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.secret import Secret
from leakscope.scoring.metrics.metric import saturated


@final
@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A secret beside its public surroundings.

    domain: turns inputs into display units, None where they already are. public, annotations: a pool for blind guesses
    and what is known of its examples. words: of a source of texts, how its token ids are read.
    """

    secret: Secret | Batch
    domain: AbstractDomain | None = None
    public: Batch | None = None
    annotations: tuple[Annotation, ...] = ()
    words: tuple[str, ...] = ()

    def batch(self) -> Batch:
        """The private batch. Raises `BadInput` on values that are not finite and on a domain of another shape."""
        batch = (self.secret.reveal() if isinstance(self.secret, Secret) else self.secret).checked()
        # Token ids need no domain of their length: they are compared one by one, never in display units.
        if self.domain is None or batch.holds_tokens:
            return batch
        if batch.lengths is not None:
            if not self.domain.fits(batch.inputs):
                raise BadInput(
                    f"the secret has sequences {tuple(batch.inputs.shape)}, which {self.domain} does not hold"
                )
            return batch
        shape = tuple(batch.inputs.shape[1:])
        if self.domain.shape != shape:
            raise BadInput(
                f"the secret has inputs of shape {shape}, the domain {self.domain} of {self.domain.shape}; pass its own"
            )
        return batch

    def annotation(self, name: str) -> Annotation:
        """What the secret tells under this name. Raises `BadInput` when it tells nothing of the kind."""
        if not isinstance(self.secret, Secret):
            raise BadInput(f"a batch does not tell the {name} of its examples; pass the Secret that was drawn")
        return self.secret.annotation(name)

    def frequencies(self, truth: Annotation) -> Tensor | None:
        """(G,) float64: how often each category of `truth` is there in the public pool; None where none is known.

        >>> public = Annotation("sex", (0, 0, 1), ("f", "m"))
        >>> batch = Batch(torch.zeros(1, 1), torch.tensor([0]))
        >>> Case(batch, annotations=(public,)).frequencies(Annotation("sex", (1,), ("m", "f", "x"))).tolist()
        [1.0, 2.0, 0.0]
        """
        # By name, not by place: a public corpus may number the same categories in another order.
        named = Counter(
            one.categories[value] for one in self.annotations if one.name == truth.name for value in one.values
        )
        counts = torch.tensor([float(named[name]) for name in truth.categories], dtype=torch.float64)
        return counts if float(counts.sum()) > 0 else None


def displayed(inputs: Tensor, domain: AbstractDomain | None) -> Tensor:
    """`inputs` (N, *shape) on the CPU in float64 display units."""
    # Copied: a domain that computes in place must not reach the secret.
    wide = inputs.detach().cpu().double().clone()
    return saturated(wide if domain is None else domain.to_display(wide))
