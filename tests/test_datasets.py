"""Data sets and the files they come from: facts, worked numbers, damaged and missing files. Nothing here reaches the network."""

import contextlib
import doctest
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import sys
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from thalweg.core import files
from thalweg.core.catalogue import shelf
from thalweg.core.files import Source, idx, read
from thalweg.errors import UserError

DATASETS = shelf("datasets")
EMBEDDED = [name for name, entry in DATASETS.items() if not entry.reads_files]


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """No network, an empty cache, and no data folder but those named."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(files.urllib.request, "urlopen", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("THALWEG_DATA", raising=False)


def contract(name, table):
    entry = DATASETS[name]
    assert entry.shelf == "datasets"
    assert entry.name == name
    assert entry.doc
    assert (table.task, table.classes, tuple(table.X.shape[1:])) == (entry.task, entry.classes, entry.shape)
    assert table.X.is_floating_point()
    assert table.X.isfinite().all()
    assert table.y.shape == (len(table.X),)
    assert table.notes
    assert not table.columns or len(table.columns) == entry.shape[0]
    if table.task == "regression":
        assert table.y.is_floating_point()
    else:
        assert table.y.dtype == torch.int64
        assert table.y.unique().tolist() == list(range(table.classes))
    assert 1 <= table.batch_size <= len(table.X)


def test_names():
    assert {"advertising", "airfoil", "breast-cancer", "cifar10", "diabetes", "digits", "fashion-mnist", "mnist"} <= set(DATASETS)
    assert {"annulus", "sparse-features", "three-modes"} <= set(EMBEDDED)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded(name, tmp_path):
    contract(name, DATASETS[name](tmp_path))


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in (*EMBEDDED, "cifar10")])
def test_from_files(name, data_folder):
    contract(name, DATASETS[name](data_folder))


@pytest.mark.parametrize("name", DATASETS)
def test_documented_examples(name):
    result = doctest.testmod(sys.modules[DATASETS[name].__module__])
    assert result.attempted
    assert not result.failed


def test_embedded_facts():
    digits = DATASETS["digits"]()
    assert digits.X.shape == (1797, 64)
    assert digits.X.min() == 0
    assert digits.X.max() == 1
    assert DATASETS["breast-cancer"]().X.shape == (569, 30)
    assert DATASETS["diabetes"]().X.shape == (442, 10)


# --- generated


@pytest.mark.parametrize("name", ["annulus", "three-modes", "sparse-features"])
def test_generated_sets_are_the_same_every_time(name):
    torch.manual_seed(1)
    first = DATASETS[name]()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = DATASETS[name]()
    assert torch.equal(first.X, again.X)
    assert torch.equal(first.y, again.y)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["annulus", "three-modes"])
def test_linear_classifiers_fail_where_neighbours_do_not(name):
    table = DATASETS[name]()
    X, y = table.X.numpy(), table.y.numpy()
    assert (y.sum(), len(y)) == (len(y) / 2, len(y))
    assert LogisticRegression().fit(X, y).score(X, y) < 0.6
    best = 0.0  # of all lines of 180 directions
    for angle in np.linspace(0, np.pi, 180, endpoint=False):
        along = np.argsort(X @ [np.cos(angle), np.sin(angle)])
        ahead = np.cumsum(2 * y[along] - 1)  # ones before the line, less zeros
        best = max(best, 0.5 + np.abs(ahead).max() / len(y))
    assert 0.6 < best < 0.7
    some, others = np.split(np.random.default_rng(0).permutation(len(y)), 2)
    assert KNeighborsClassifier(5).fit(X[some], y[some]).score(X[others], y[others]) > 0.97


def test_shapes_of_the_generated_sets():
    annulus = DATASETS["annulus"]()
    radius = annulus.X.norm(dim=1)
    assert radius[annulus.y == 0].max() <= 1
    assert 1.4 <= radius[annulus.y == 1].min() <= radius.max() <= 2.2
    # uniform on its area: half the disc lies inside 1 / sqrt(2), half the ring inside the mean square
    assert (radius[annulus.y == 0] < 0.5**0.5).double().mean() == pytest.approx(0.5, abs=0.06)
    assert (radius[annulus.y == 1] < (0.5 * (1.4**2 + 2.2**2)) ** 0.5).double().mean() == pytest.approx(0.5, abs=0.06)
    modes = DATASETS["three-modes"]()
    centres = torch.tensor([[0, 1.2], [-1.2 * 0.75**0.5, -0.6], [1.2 * 0.75**0.5, -0.6]], dtype=torch.float64)
    distance = torch.cdist(modes.X, centres)
    assert distance[modes.y == 1].amin(1).max() <= 0.5
    assert distance[modes.y == 1].argmin(1).bincount().tolist() == [200, 200, 200]
    assert distance[modes.y == 0].amin(1).min() >= 0.65
    assert modes.X.abs().max() <= 2


def test_rare_features_tell_the_class_and_frequent_ones_do_not():
    table = DATASETS["sparse-features"]()
    there = table.X > 0
    assert there.double().mean() == pytest.approx(0.007, abs=0.0005)
    assert there[:, :3].double().mean(0).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 6], abs=0.04)
    assert there.any(0).sum() > 300
    signs = 2 * table.y.double() - 1
    leaning = (there.double().T @ signs).abs() / there.sum(0).clamp(min=1)  # 1 where a feature's rows are all of one class
    often = there.sum(0) >= 5
    assert leaning[:20].max() < 0.3
    assert leaning[20:][often[20:]].median() > 0.5


# --- from files


def test_advertising_least_squares(data_folder):
    table = DATASETS["advertising"](data_folder)
    A = np.c_[np.ones(200), table.X.numpy()]
    y = table.y.numpy()
    w = np.linalg.lstsq(A, y)[0]
    np.testing.assert_allclose(w, [2.93888937, 0.0457646455, 0.188530017, -0.00103749304], rtol=1e-8)
    assert ((A @ w - y) ** 2).mean() == pytest.approx(2.7841263145109365, rel=1e-12)
    assert table.standardize is False


def test_airfoil_least_squares(data_folder):
    table = DATASETS["airfoil"](data_folder)
    assert table.X.shape == (1500, 5)
    A = np.c_[np.ones(1500), table.X.numpy()]
    y = table.y.numpy()
    w = np.linalg.lstsq(A, y)[0]
    assert ((A @ w - y) ** 2).mean() / 2 == pytest.approx(0.241688, abs=1e-6)
    assert (table.loss, table.batch_size, table.epochs) == ("half_mse", 10, 2)


@pytest.mark.parametrize(("name", "first"), [("mnist", [5, 0, 4]), ("fashion-mnist", [9, 0, 0])])
def test_images(name, first, data_folder):
    table = DATASETS[name](data_folder)
    assert table.X.shape == (60_000, 1, 28, 28)
    assert table.X_test.shape == (10_000, 1, 28, 28)
    assert table.X.dtype == torch.float32
    assert (table.X.min(), table.X.max()) == (0, 1)
    assert table.y[:3].tolist() == first
    assert len(table.y_test) == 10_000


def test_flat_folder_is_told_apart_by_content(data_folder, tmp_path):
    """MNIST and Fashion-MNIST files have the same names."""
    for path in (data_folder / "mnist").iterdir():
        shutil.copyfile(path, tmp_path / path.name)
    assert DATASETS["mnist"](tmp_path).y[:3].tolist() == [5, 0, 4]
    with pytest.raises(UserError, match=r"put it at .*fashion-mnist/train-images.* is another data set's file of that name"):
        DATASETS["fashion-mnist"](tmp_path)


# --- CIFAR-10, on small files of its forms

CIFAR = sys.modules["thalweg.datasets.cifar10"]
BATCHES = list(CIFAR._SHA256)


def records(k):
    """12 pictures of the k-th batch as the binary version has them: (12, 3073) of bytes, the label first."""
    rows = np.random.default_rng(k).integers(0, 256, (12, 3073), dtype=np.uint8)
    rows[:, 0] = np.arange(12) % 10
    return rows


def pickled(rows):
    """A batch as Python 2 pickled it for the published python version: protocol 2, texts as bytes, NumPy's array by its old names."""

    def text(value):
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    kind = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    array += b"(K\x01(K" + bytes([len(rows)]) + b"M\x00\x0ct" + kind + b"\x89" + text(rows[:, 1:].tobytes()) + b"tb"
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in rows[:, 0]) + b"e"
    return b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"tiny") + text(b"labels") + labels + text(b"data") + array + b"u."


@pytest.fixture
def tiny(monkeypatch):
    """The sha256 of small batches in place of the published ones'."""
    monkeypatch.setattr(CIFAR, "_SHA256", {name: hashlib.sha256(records(k).tobytes()).hexdigest() for k, name in enumerate(BATCHES)})


def lay(folder, form):
    """The small batches in a folder, in one of the forms in which CIFAR-10 is met; where they were put."""
    python = "py" in form
    files = {name + ("" if python else ".bin"): pickled(records(k)) if python else records(k).tobytes() for k, name in enumerate(BATCHES)}
    below = "cifar-10-batches-py" if python else "cifar-10-batches-bin"
    if "tar" not in form:
        place = folder / below if "batches" in form else folder
        place.mkdir(exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)
        return place
    with tarfile.open(folder / form, "w:gz" if form.endswith("gz") else "w") as archive:
        for name, content in (files | {"readme.html": b"<html>"}).items():
            member = tarfile.TarInfo(f"{below}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder / form


FORMS = ["cifar-10-batches-bin", "cifar-10-batches-py", "bin", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", "cifar-10-binary.tar"]


@pytest.mark.parametrize("form", FORMS)
def test_cifar10_is_read_in_every_form(form, tiny, tmp_path):
    lay(tmp_path, form)
    table = DATASETS["cifar10"](tmp_path)
    contract("cifar10", table)
    assert (table.X.shape, table.X_test.shape) == ((60, 3, 32, 32), (12, 3, 32, 32))
    rows = np.concatenate([records(k) for k in range(6)])
    np.testing.assert_array_equal(torch.cat([table.X, table.X_test]).mul(255).round(), rows[:, 1:].reshape(-1, 3, 32, 32))
    np.testing.assert_array_equal(torch.cat([table.y, table.y_test]), rows[:, 0])
    assert "6 frog" in " ".join(f"{k} {name}" for k, name in enumerate(table.notes[0].split("classes ")[1].split(", ")))


def test_cifar10s_pickles_are_those_that_python_writes():
    batch = pickle.loads(pickled(records(0)), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], records(0)[:, 1:])
    assert batch[b"labels"] == [*range(10), 0, 1]
    again = pickle.dumps({b"labels": [1, 2], b"data": np.asfortranarray(records(0)[:2, 1:])}, protocol=4)
    assert CIFAR._unpickled(again) == np.column_stack([[1, 2], records(0)[:2, 1:]]).astype(np.uint8).tobytes()


class Runs:
    """Pickled, it asks the reader to run a command."""

    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({b"labels": [0], b"data": Runs()}), r"it names (posix|nt)\.system, and nothing but arrays, lists, dicts"),
        (pickle.dumps(print, protocol=2), r"it names (builtins|__builtin__)\.print"),
        (b"\x80\x02cnumpy\nload\n.", r"it names numpy\.load"),
        (b"\x80\x02cthalweg.core\nfiles.os.system\n.", r"it names thalweg\.core\.files\.os\.system"),
        (b"\x80\x02U\x01aQ.", "asks for something outside the file"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "a memo beyond its end"),
        (pickled(records(0))[:-1], "is no batch of CIFAR-10's python version"),
        (pickled(records(0)).replace(b"U\x02u1", b"U\x02i1"), "pixels that are no bytes"),
        (pickled(records(0)).replace(b"labels", b"fabels"), "is no batch"),
        (pickled(records(0)).replace(b"](K\x00", b"]("), "is no batch"),
        (pickle.dumps({b"labels": [300], b"data": 1}), "is no batch"),
        (pickle.dumps([]), "is no batch"),
        (records(0).tobytes()[:-1], "has 36875 bytes, not 3073 for each picture"),
        (b"", "has 0 bytes"),
        (records(1).tobytes(), "is not the published batch: its records have sha256 .* is expected"),
        (pickled(records(1)), "is not the published batch"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_damaged_or_hostile_batch_is_refused_in_words(content, words, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = lay(tmp_path, "cifar-10-batches-bin")
    (place / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        DATASETS["cifar10"](tmp_path)
    assert str(place) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_byte_of_a_pickle_may_be_wrong(at, byte):
    content = bytearray(pickled(records(0)[:2]))
    content[-at if at % 2 else at] = byte
    # either it is told apart, or it says the same or other pixels: never anything else
    with contextlib.suppress(ValueError):
        assert isinstance(CIFAR._unpickled(bytes(content)), bytes)


def test_a_missing_or_broken_cifar10_says_what_to_put_where(tiny, tmp_path):
    with pytest.raises(UserError, match=r"cifar-10-binary.tar is not in .*; put it there, plain or as cifar-10-binary.tar.gz"):
        DATASETS["cifar10"](tmp_path)
    place = lay(tmp_path, "cifar-10-batches-py")
    (place / "data_batch_4").unlink()
    with pytest.raises(UserError, match=r"data_batch_4 is missing in .*cifar-10-batches-py; unpack or download"):
        DATASETS["cifar10"](tmp_path)
    archive = lay(tmp_path, "cifar-10-binary.tar.gz")
    shutil.rmtree(place)
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz is damaged: it is not a sound archive"):
        DATASETS["cifar10"](tmp_path)
    archive.write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match=r"cifar-10-binary.tar.gz is damaged"):
        DATASETS["cifar10"](tmp_path)


def test_cifar10_in_the_environments_folder_and_the_cache(tiny, tmp_path, monkeypatch):
    cached = tmp_path / "cache" / "thalweg"
    cached.mkdir(parents=True)
    lay(cached, "cifar-10-binary.tar.gz")
    assert len(DATASETS["cifar10"]().X) == 60
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    (lay(tmp_path / "own", "cifar-10-batches-py") / "test_batch").write_bytes(b"")
    with pytest.raises(UserError, match=r"test_batch in .*own.* is damaged"):
        DATASETS["cifar10"]()


# --- the finder, on a small file of its own

LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 6, 7])
PACKED = gzip.compress(LABELS, mtime=0)  # without the hour: every test worker must name its tests alike


def labels(**more):
    return Source("labels-idx1-ubyte", hashlib.sha256(LABELS).hexdigest(), folders=("tiny",), **more)


def parse(content):
    return idx(content, dims=1).tolist()


@pytest.mark.parametrize("where", ["tiny/labels-idx1-ubyte", "labels-idx1-ubyte", "tiny/labels-idx1-ubyte.gz"])
def test_found(where, tmp_path):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PACKED if where.endswith(".gz") else LABELS)
    assert read(labels(), tmp_path, parse) == [5, 6, 7]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (".gz", PACKED[:-12], "is a truncated gzip file"),
        (".gz", PACKED[:-6] + b"\xff" * 6, "is not a sound gzip file"),
        (".gz", b"", "damaged"),
        (".gz", LABELS, "is not a sound gzip file"),
        ("", b"<html>not found</html>", "begins with 0x3c68746d, not with 0x00000801, the magic number"),
        ("", LABELS[:-1], "has 10 bytes where its IDX header announces 11"),
        ("", LABELS + b"\0", "has 12 bytes where its IDX header announces 11"),
        ("", LABELS[:6], "ends inside its IDX header"),
        ("", LABELS[:-1] + b"\0", "is not the published file: its content has sha256 .* is expected"),
    ],
)
def test_damaged(name, content, sentence, tmp_path):
    path = tmp_path / "tiny" / f"labels-idx1-ubyte{name}"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read(labels(), tmp_path, parse)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_real_file(data_folder, tmp_path):
    name = "mnist/train-images-idx3-ubyte.gz"
    (tmp_path / "mnist").mkdir()
    with open(data_folder / name, "rb") as file:
        (tmp_path / name).write_bytes(file.read(100_000))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz is damaged: it is a truncated gzip file"):
        DATASETS["mnist"](tmp_path)


def test_images_under_the_name_of_labels():
    with pytest.raises(ValueError, match="begins with 0x00000803"):
        idx(bytes([0, 0, 8, 3]) + bytes(12), dims=1)


def test_missing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"labels-idx1-ubyte is not in .*; put it at .*tiny/labels-idx1-ubyte, plain or as labels"):
        read(labels(), tmp_path, parse)
    with pytest.raises(UserError, match="nowhere, is not a folder"):
        read(labels(), tmp_path / "nowhere", parse)
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"\$THALWEG_DATA, .*nowhere, is not a folder"):
        read(labels(), None, parse)
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"neither in .* nor in .*cache/thalweg, and it could not be downloaded; put it at"):
        read(labels(urls=("https://example.org/x",)), None, parse)


def test_order_of_folders(tmp_path, monkeypatch):
    """The environment's folder, then the cache; a named folder alone."""
    cached = tmp_path / "cache" / "thalweg" / "tiny"
    cached.mkdir(parents=True)
    (cached / "labels-idx1-ubyte").write_bytes(LABELS)
    named = tmp_path / "named"
    named.mkdir()
    assert read(labels(), None, parse) == [5, 6, 7]
    monkeypatch.setenv("THALWEG_DATA", str(named))
    assert read(labels(), None, parse) == [5, 6, 7]
    with pytest.raises(UserError, match="is not in"):
        read(labels(), named, parse)
    (named / "labels-idx1-ubyte").write_bytes(LABELS[:-1])
    with pytest.raises(UserError, match="named/labels-idx1-ubyte is damaged"):
        read(labels(), None, parse)


def test_download(tmp_path, monkeypatch):
    asked = []
    pages = {"https://a.org/x.gz": b"<html>moved</html>", "https://b.org/x.gz": PACKED}

    def urlopen(url, timeout):
        asked.append(url)
        return io.BytesIO(pages[url])

    monkeypatch.setattr(files.urllib.request, "urlopen", urlopen)
    source = labels(urls=tuple(pages))
    with pytest.raises(UserError, match="is not in"):
        read(source, tmp_path, parse)  # a named folder is never added to
    assert asked == []
    assert read(source, None, parse) == [5, 6, 7]
    assert asked == list(pages)
    kept = tmp_path / "cache" / "thalweg" / "tiny"
    assert [path.name for path in kept.iterdir()] == ["labels-idx1-ubyte.gz"]
    assert read(source, None, parse) == [5, 6, 7]
    assert len(asked) == 2


def test_text_may_have_other_line_ends(tmp_path):
    source = Source("a.csv", hashlib.sha256(b"x,y\n1,2\n").hexdigest(), text=True)
    (tmp_path / "a.csv").write_bytes(b"x,y\r\n1,2\r\n")
    assert read(source, tmp_path) == b"x,y\n1,2\n"
