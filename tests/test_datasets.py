"""Data sets and the files they come from: facts, worked numbers, damaged and missing files. Nothing here reaches the network."""

import doctest
import gzip
import hashlib
import io
import shutil
import sys
import urllib.error

import numpy as np
import pytest
import torch

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
    assert {"advertising", "airfoil", "breast-cancer", "diabetes", "digits", "fashion-mnist", "mnist"} <= set(DATASETS)


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded(name, tmp_path):
    contract(name, DATASETS[name](tmp_path))


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in EMBEDDED])
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
