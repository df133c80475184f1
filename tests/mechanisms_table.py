"""The table that the mechanism laws cross: small targets in float64, every protocol, every defense with its traits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from leakscope.core.batch import Batch
from leakscope.core.target import Target
from leakscope.domains.vision import Images
from leakscope.mechanisms.compose import AbstractDefense, AbstractProtocol
from leakscope.mechanisms.defenses.clip import Clip
from leakscope.mechanisms.defenses.dropout import Dropout
from leakscope.mechanisms.defenses.freeze import FreezeLayers
from leakscope.mechanisms.defenses.inputs import InputNoise
from leakscope.mechanisms.defenses.noise import GaussianNoise, LaplaceNoise
from leakscope.mechanisms.defenses.prune import Prune, RandomDrop
from leakscope.mechanisms.defenses.quantize import Quantize, Sign
from leakscope.mechanisms.protocols.dpsgd import DPSGD
from leakscope.mechanisms.protocols.fedavg import FedAvg
from leakscope.mechanisms.protocols.fedsgd import FedSGD
from leakscope.mechanisms.protocols.optimizers import ClientAdam, ClientAdamW, ClientSGD
from leakscope.numerics.rng import Key

NAMES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        Clip, DPSGD, Dropout, FedAvg, FedSGD, FreezeLayers, GaussianNoise, InputNoise, LaplaceNoise, Prune, Quantize,
        RandomDrop, Sign,
    )
}  # fmt: skip


def _target(*layers: nn.Module, training: bool = False) -> Target:
    with Key(7).isolated():
        module = nn.Sequential(*layers)
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)
    return Target(module.double(), Images(2, 4, 4), classes=3, training=training)


def mlp() -> Target:
    """Begins with a layer that writes to its input, as some published models do."""
    return _target(nn.Flatten(), nn.Hardtanh(0.1, 0.9, inplace=True), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3))


def dropout_net(training: bool = False) -> Target:
    return _target(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.3), nn.Linear(12, 3),
        training=training,
    )  # fmt: skip


def norm_net(training: bool = True) -> Target:
    """Batch normalization and dropout; no convolution bias, whose gradient before a normalization is rounding."""
    return _target(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(12, 3),
        training=training,
    )  # fmt: skip


OPTIMIZERS: dict[str, type] = {kind.__name__: kind for kind in (ClientAdam, ClientAdamW, ClientSGD)}

TARGETS = {
    "mlp": mlp,
    "dropout_eval": dropout_net,
    "norm_eval": lambda: norm_net(training=False),
    "norm_train": norm_net,
}


def secret(count: int = 4) -> Batch:
    generator = Key(3).generator()
    inputs = torch.rand(count, 2, 4, 4, generator=generator, dtype=torch.float64)
    return Batch(inputs, torch.arange(count) % 3)


@dataclass(frozen=True)
class Row:
    """One defense. off: the same without randomness (itself if it has none). changes: one other value per field.

    mean: whether the mean of the release is the replay. Not so for dropout and input noise: the update is not linear
    in the masks nor in the inputs, so only their switched-off versions and their own outputs are compared.
    """

    defense: AbstractDefense
    changes: dict[str, Any] = field(default_factory=dict)
    off: AbstractDefense | None = None
    mean: bool = True
    smooth: bool = True

    @property
    def silent(self) -> AbstractDefense:
        return self.off or self.defense

    def changed(self) -> list[AbstractDefense]:
        return [dataclasses.replace(self.defense, **{name: value}) for name, value in self.changes.items()]


DEFENSES = {
    "clip": Row(Clip(0.05), {"norm": 0.04, "order": 1}),
    "clip_l1": Row(Clip(0.2, order=1), {"norm": 0.1, "order": 2}),
    "clip_idle": Row(Clip(100.0), {"norm": 0.01}),
    "gaussian": Row(GaussianNoise(0.01), {"std": 0.02}, off=GaussianNoise(0.0)),
    "laplace": Row(LaplaceNoise(0.01), {"scale": 0.02}, off=LaplaceNoise(0.0)),
    "prune": Row(Prune(0.3), {"keep": 0.2, "whole": True}),
    "prune_whole": Row(Prune(0.3, whole=True), {"keep": 0.2, "whole": False}),
    "drop": Row(RandomDrop(0.4), {"rate": 0.6}, off=RandomDrop(0.0)),
    "quantize": Row(Quantize(3), {"bits": 4, "stochastic": True}, smooth=False),
    "quantize_stochastic": Row(Quantize(3, stochastic=True), {"bits": 4, "stochastic": False}, off=Quantize(3)),
    "sign": Row(Sign(), smooth=False),
    "freeze": Row(FreezeLayers(("0", "2")), {"layers": ("4", "5")}),
    "dropout": Row(Dropout(0.5), {"rate": 0.7}, off=Dropout(0.0), mean=False),
    "input_noise": Row(InputNoise(0.1), {"std": 0.2}, off=InputNoise(0.0), mean=False),
}

PROTOCOLS: dict[str, AbstractProtocol] = {
    "fedsgd": FedSGD(),
    "fedavg": FedAvg(steps=3, lr=0.2),
    "fedavg_parts": FedAvg(steps=5, lr=0.1, batch_size=2, momentum=0.6),
    "fedavg_uneven": FedAvg(steps=3, lr=0.1, batch_size=3),
    "fedavg_decayed": FedAvg(3, 0.1, 2, accumulate=2, optimizer=ClientSGD(momentum=0.6, weight_decay=0.1)),
    "dpsgd": DPSGD(clip=1.4, noise_multiplier=0.0, expected=3),
}

PROTOCOL_CHANGES: dict[str, dict[str, Any]] = {
    "fedsgd": {},
    "fedavg_parts": {"steps": 4, "lr": 0.2, "batch_size": 3, "momentum": 0.5, "shuffle": True},
    "fedavg_decayed": {"optimizer": ClientAdamW(), "accumulate": 3, "summed": True},
    "dpsgd": {"clip": 1.0, "noise_multiplier": 1.0, "expected": None, "rate": 0.5},
}


def fits(target: str, defense: str, protocol: str = "fedsgd") -> bool:
    """Whether the target has the layers that the defense needs, and examples that the protocol can take apart."""
    return not (target == "mlp" and defense == "dropout") and separates(target, protocol)


def separates(target: str, protocol: str) -> bool:
    """Whether each example has a gradient of its own, where the protocol asks for it."""
    return not (target == "norm_train" and protocol == "dpsgd")
