"""What a claim is held against: the secret, and what anybody may know of such secrets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from leakscope.core.annotation import Annotation
from leakscope.core.asking import asking
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.core.mechanism import AbstractMechanism
from leakscope.core.overriding import acts_as
from leakscope.core.secret import Secret
from leakscope.core.target import Target
from leakscope.domains.text import PAD
from leakscope.mechanisms.effects import Answer
from leakscope.mechanisms.reading import keeps_inputs, one_gradient
from leakscope.numerics.rng import Key
from leakscope.scoring.metrics.metric import saturated
from leakscope.targets.looking.tape import recorded
from leakscope.targets.losses import NextToken


@final
@dataclass(frozen=True, eq=False)
class Client:
    """Whose model was run on the secret, so that the referee can ask what a layer was fed.

    mechanism, key: as they were given to `observe`. With them the client's own pass is repeated, with the very units
    that it dropped; without them the model is run as it stands.
    """

    target: Target
    mechanism: AbstractMechanism | None = None
    key: Key | None = None

    def fed(self, layer: str, batch: Batch) -> Tensor:
        """(B, d) float64: what the layer is fed for each example, of `NextToken` at each place with a next token.

        Raises `BadInput` where that is not one row each.
        """
        try:
            self.target.module.get_submodule(layer)
        except AttributeError as error:
            raise BadInput(f"the model {self.target.name} has no layer {layer!r}; claim one that it has") from error
        found = self._passed(layer, batch)
        if acts_as(self.target.loss, NextToken) and found.shape[:-1] == batch.inputs.shape:
            # The others are asked for nothing, and no gradient knows of them.
            return found[:, :-1][batch.inputs[:, 1:] != PAD].detach().cpu().double()
        if found.dim() != 2 or len(found) != len(batch):
            raise BadInput(f"the layer {layer!r} is fed {tuple(found.shape)} for {len(batch)} examples, no row each")
        return found.detach().cpu().double()

    def _passed(self, layer: str, batch: Batch) -> Tensor:
        # Inputs that a defense changed are no private ones, and of several steps there is no one pass.
        own = self.mechanism is not None and self.key is not None
        if own and keeps_inputs(self.mechanism) is one_gradient(self.mechanism) is Answer.YES:  # type: ignore[arg-type]
            with recorded(self.target.module, [layer]) as calls, asking(self.mechanism, "run the model on the secret"):
                # The client's copy of the model takes the recorder along.
                self.mechanism.release(self.target, batch, key=self.key.child("release"))  # type: ignore[union-attr]
            if calls and sum(len(call.given) for call in calls) == len(batch):
                return torch.cat([call.given for call in calls])
        with recorded(self.target.module, [layer]) as calls, Key(0).child("fed").isolated(), torch.no_grad():
            self.target.outputs(self.target.parameters(), batch)
        return calls[-1].given if calls else torch.zeros(0)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A secret beside its public surroundings.

    domain: turns inputs into display units, None where they already are. public, annotations: a pool for blind guesses
    and what is known of its examples. words: of a source of texts, how its token ids are read. client: whose model was
    run on the secret, None where nobody says; claims of what a layer was fed cannot be compared then.
    """

    secret: Secret | Batch
    domain: AbstractDomain | None = None
    public: Batch | None = None
    annotations: tuple[Annotation, ...] = ()
    words: tuple[str, ...] = ()
    client: Client | None = None

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
