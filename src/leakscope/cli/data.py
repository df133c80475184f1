"""What may stand where data are asked for: an expression, a folder, a list of recordings, or a file of tensors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from leakscope.cli.expressions import build
from leakscope.cli.rows import Family
from leakscope.cli.text.data import LIST, data
from leakscope.core.batch import Batch
from leakscope.core.domain import AbstractDomain
from leakscope.core.errors import BadInput
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources.folder import SUFFIXES as PICTURES
from leakscope.datasets.sources.folder import ImageFolder
from leakscope.datasets.sources.speech import DeepSpeechCsv, LibriSpeech
from leakscope.datasets.sources.transcribed import SUFFIXES as SOUNDS
from leakscope.datasets.sources.transcribed import SoundFolder
from leakscope.domains.vision import Images
from leakscope.targets.files.foreign import read_foreign

FIELDS = ("inputs", "labels", "lengths", "label_lengths")


def source(text: str, domain: AbstractDomain | None = None) -> AbstractSource:
    """The source that `text` names: an expression of the table, a folder, or a CSV file as DeepSpeech takes it.

    A folder is LibriSpeech where it holds *.trans.txt, recordings where it holds sound files, else pictures; these
    need the `domain` for their size. Raises `BadInput` when it is none of them.
    """
    data(text)
    path = Path(text)
    if path.is_dir():
        return _folder(path, domain)
    if path.suffix.lower() == LIST:
        return DeepSpeechCsv(text)
    built: AbstractSource = build(text, Family.DATASETS)
    return built


def _folder(path: Path, domain: AbstractDomain | None) -> AbstractSource:
    if next(path.rglob("*.trans.txt"), None) is not None:
        return LibriSpeech(str(path))
    suffixes = {one.suffix.lower() for one in path.rglob("*") if one.is_file()}
    if suffixes & SOUNDS:
        return SoundFolder(str(path))
    if not suffixes & PICTURES:
        raise BadInput(
            f"{path} holds neither pictures ({', '.join(sorted(PICTURES))}) nor sound ({', '.join(sorted(SOUNDS))})"
        )
    if not isinstance(domain, Images):
        raise BadInput(f"the pictures of {path} can be of any size; say what the model takes, with --domain 3x32x32")
    return ImageFolder(str(path), (domain.channels, domain.height, domain.width))


def in_units(batch: Batch, given: AbstractDomain, wanted: AbstractDomain) -> Batch:
    """`batch` of the domain `given` in the units of `wanted`: another normalization of images of the same shape.

    Raises `BadInput` where the two are not the same kind of thing.
    """
    if given == wanted:
        return batch
    if not isinstance(given, Images) or not isinstance(wanted, Images) or given.shape != wanted.shape:
        raise BadInput(f"the data are {given}, the model takes {wanted}; make --domain and the data agree")
    low, high = wanted.bounds(batch.inputs)
    return batch.with_inputs(low + (high - low) * given.to_display(batch.inputs))


def batch_file(path: str, *, allow_pickle: bool) -> Batch:
    """The batch in a file of tensors named inputs, labels and, of sequences, lengths and label_lengths.

    Raises `BadInput` when it is none.
    """
    found = read_foreign(path, allow_pickle=allow_pickle).by_name
    if found is None or not {"inputs", "labels"} <= found.keys() <= set(FIELDS):
        raise BadInput(
            f"{path} holds {', '.join(sorted(found or ())) or 'arrays without names'}, expected inputs and labels (and "
            "lengths and label_lengths of sequences), such as numpy.savez writes by name"
        )
    whole: dict[str, Tensor] = {
        name: value if value.is_floating_point() else value.long() for name, value in found.items()
    }
    if not found["inputs"].is_floating_point():
        raise BadInput(f"inputs in {path} are {found['inputs'].dtype}, expected floats in the units of --domain")
    inputs = whole["inputs"].float()
    return Batch(inputs, whole["labels"], whole.get("lengths"), whole.get("label_lengths")).checked()
