"""What moves during a search, for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leakscope.core.effort import Progress, Watch
from leakscope.core.errors import optional
from leakscope.ledger.folders import private_folder


@contextmanager
def scalars(folder: Path | None, name: str, watch: Watch) -> Iterator[Watch]:
    """`watch`, which also writes to `folder`/`name`: the loss, and by name the step, its size, distance and prior.

    Over evaluations of the gradient. Nothing is written where folder is None. Raises `MissingExtra` without the extra
    `tensorboard`.
    """
    if folder is None:
        yield watch
        return
    optional("tensorboard", extra="tensorboard", purpose="writing scalars of a search")
    from torch.utils.tensorboard import SummaryWriter

    private_folder(folder)
    writer = SummaryWriter(str(folder / name))

    def both(said: Progress) -> None:
        for label, value in (("loss", said.loss), *said.scalars):
            writer.add_scalar(label, value, said.evaluations)
        watch(said)

    try:
        yield both
    finally:
        writer.close()
