"""Your own model: attack one update that your own training loop made, then audit the model with and without a defense.

Run it with `python examples/audit_my_model.py`; nothing is downloaded, and the page is written to a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import leakscope as ls
from leakscope.audit.engines.inline import Inline
from leakscope.audit.plan import Plan, Scene
from leakscope.audit.run import run
from leakscope.report.page_run import write_page

DIGITS = ls.Digits(size=16)


class Net(nn.Module):
    """Put your model here: it takes images and returns one tensor of logits."""

    def __init__(self) -> None:
        super().__init__()
        self.entrance = nn.Linear(256, 64)
        self.exit = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 16, 16) to (B, 10)."""
        logits: Tensor = self.exit(torch.relu(self.entrance(images.flatten(1))))
        return logits


def one_update() -> None:
    """What a server can make of one gradient: without trials and controls it can show a leak, and clear nothing."""
    torch.manual_seed(0)
    net = Net()
    target = ls.Target(net, DIGITS.domain, DIGITS.classes, name="Net")
    for finding in ls.vet(target):
        print("look at", finding)
    secret = DIGITS.draw(1, key=ls.Key(1)).reveal()
    nn.functional.cross_entropy(net(secret.inputs), secret.labels).backward()
    gradient = ls.Gradient({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    seen = ls.Observation(target, gradient, ls.FedSGD())  # everything that the attack gets; `secret` is not in it
    attempt = ls.Auto().run(seen, key=ls.Key(2))
    print("one update:", attempt.sentence)
    if attempt.claim is not None:
        print("one update:", ls.score(attempt.claim, secret, domain=DIGITS.domain)["psnr"])


def audit(folder: Path) -> None:
    """Trials beside their controls, and one of three words for each combination."""
    plan = Plan(
        title="My model",
        scenes=(Scene("digits", DIGITS, ls.Imported("audit_my_model:Net")),),
        mechanisms=(ls.FedSGD(), ls.FedSGD() >> ls.Clip(1.0) >> ls.GaussianNoise(0.3)),
        attacks=(ls.LinearLayer(),),
        trials=8,
        told=(ls.BatchSize,),
    )
    summary = run(plan, folder, Inline())
    for group in summary.groups:
        print(f"{group.word.value}: {group.mechanism}: {group.sentence}")
    print("report:", write_page(folder))


if __name__ == "__main__":
    one_update()
    audit(Path(tempfile.mkdtemp()) / "my-model")
