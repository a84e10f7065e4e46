import gzip
import lzma
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from gatewise.errors import InvalidInput
from gatewise.readers import read_images

BYTES = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 6), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5])


@pytest.fixture
def npz(tmp_path):
    def write(images=BYTES, labels=LABELS, name="data.npz", **more):
        np.savez(tmp_path / name, images=images, labels=labels, **more)
        return str(tmp_path / name)

    return write


@pytest.fixture
def folder(tmp_path):
    def write(images, table=None):
        for name, image in images.items():
            image.save(tmp_path / name)
        lines = [f"{name},{label}" for label, name in enumerate(images)] if table is None else table
        (tmp_path / "labels.csv").write_text("\n".join(lines))
        return str(tmp_path)

    return write


def picture(mode="RGB", size=(6, 4), colour=10):
    return Image.new(mode, size, colour if mode in ("L", "P", "1", "I;16") else (colour, 20, 30, 255)[: len(mode)])


# Data sets by name


def test_digits():
    rows = read_images("digits", count=5)
    assert rows.images.shape == (5, 1, 8, 8)
    assert rows.images.dtype == torch.float32
    assert rows.labels.tolist() == [0, 1, 2, 3, 4]
    assert rows.labels.dtype == rows.index.dtype == torch.int64
    assert len(read_images("digits")) == 1797
    assert read_images("digits").pixel_range == (0, 1)


@pytest.mark.parametrize(
    ("name", "total", "shape", "classes", "first"),
    [
        ("mnist:test", 10000, (1, 28, 28), 10, [7, 2, 1, 0, 4]),
        ("mnist:train", 60000, (1, 28, 28), 10, [5, 0, 4, 1, 9]),
        ("cifar10:test", 2000, (3, 32, 32), 10, [3, 8, 8, 0, 6]),
        ("cifar10:train", 10000, (3, 32, 32), 10, None),
        ("gtsrb:test", 1075, (3, 32, 32), 43, None),
        ("gtsrb:train", 4300, (3, 32, 32), 43, None),
    ],
)
def test_published_data(data_folder, monkeypatch, name, total, shape, classes, first):
    monkeypatch.setenv("GATEWISE_DATA", str(data_folder))
    rows = read_images(name)
    assert rows.images.shape == (total, *shape)
    assert rows.pixel_range == (0, 1)
    assert rows.labels.unique().tolist() == list(range(classes))
    assert rows.index.tolist() == list(range(total))
    if first:
        assert rows.labels[:5].tolist() == first


def test_channels_come_first_with_the_published_means(data_folder, monkeypatch):
    monkeypatch.setenv("GATEWISE_DATA", str(data_folder))
    means = read_images("cifar10:train").images.mean((0, 2, 3))
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=0.006)


def test_rows_by_index_file_and_class(data_folder, monkeypatch):
    monkeypatch.setenv("GATEWISE_DATA", str(data_folder))
    hard = str(data_folder / "models/mnist_cnn_a_adv/hard_attack_index.csv")
    unsafe = read_images("mnist:test", indices=f"{hard}:mip_unsafe")
    assert len(unsafe) == 20
    assert unsafe.index[:2].tolist() == [3343, 9711]
    everything = read_images("mnist:test")
    assert torch.equal(unsafe.images, everything.images[unsafe.index])
    assert torch.equal(unsafe.labels, everything.labels[unsafe.index])
    assert len(read_images("mnist:test", indices=hard)) == 616
    assert len(read_images("mnist:test", count=7, indices=f"{hard}:mip_unknown")) == 7
    with pytest.raises(InvalidInput, match="has no row of class 'safe'; it has mip_unknown, mip_unsafe"):
        read_images("mnist:test", indices=f"{hard}:safe")


def test_data_folder_not_set_or_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("GATEWISE_DATA", raising=False)
    with pytest.raises(InvalidInput, match="needs GATEWISE_DATA: set it to the folder"):
        read_images("mnist:test")
    monkeypatch.setenv("GATEWISE_DATA", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"has no gtsrb/gtsrb32_test_1075\.npz\.xz; set GATEWISE_DATA"):
        read_images("gtsrb:test")


def idx(*lengths, values=b"", magic=None):
    magic = 0x800 + len(lengths) if magic is None else magic
    return gzip.compress(struct.pack(f">{len(lengths) + 1}i", magic, *lengths) + values, mtime=0)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (idx(2, 3, 3, values=bytes(18))[:-9], idx(2, values=b"\1\2"), "images-idx3-ubyte.gz is truncated or broken"),
        (b"not gzip", idx(2, values=b"\1\2"), "images-idx3-ubyte.gz is truncated or broken"),
        (idx(2, 3, 3, values=bytes(17)), idx(2, values=b"\1\2"), "images-idx3-ubyte.gz is truncated or broken"),
        (idx(2, 3, 3, values=bytes(18), magic=7), idx(2, values=b"\1\2"), "not an idx file of bytes with 3 axes"),
        (idx(2, 3, 3, values=bytes(18)), idx(3, values=b"\1\2\3"), "2 images but 3 labels"),
        (gzip.compress(b"\0", mtime=0), idx(2, values=b"\1\2"), "truncated or broken"),
    ],
    ids=["cut short", "no gzip", "too few values", "wrong magic", "labels too many", "no header"],
)
def test_broken_mnist(tmp_path, monkeypatch, images, labels, said):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/t10k-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "mnist/t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    monkeypatch.setenv("GATEWISE_DATA", str(tmp_path))
    with pytest.raises(InvalidInput, match=said):
        read_images("mnist:test")


@pytest.mark.parametrize("kept", [0.99, 0.3, 0.0])
def test_broken_xz(npz, tmp_path, monkeypatch, kept):
    (tmp_path / "cifar10").mkdir()
    with open(npz(), "rb") as file:
        content = lzma.compress(file.read())
    path = tmp_path / "cifar10/cifar10_test_2k.npz.xz"
    monkeypatch.setenv("GATEWISE_DATA", str(tmp_path))
    path.write_bytes(content)
    assert len(read_images("cifar10:test")) == 5
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidInput, match="truncated"):
        read_images("cifar10:test")


def test_unknown_names_get_the_nearest_one():
    with pytest.raises(InvalidInput, match=r"file or folder 'mnist'; did you mean 'mnist:t"):
        read_images("mnist")
    with pytest.raises(InvalidInput, match="did you mean 'cifar10:test'"):
        read_images("cifar:test")


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("sklearn.datasets", "digits", "digits"), ("PIL", ".", "images")]
)
def test_missing_packages_name_the_extra(monkeypatch, tmp_path, package, name, extra):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    if package == "PIL":
        monkeypatch.delitem(sys.modules, "PIL.Image")
    with pytest.raises(InvalidInput, match=rf'pip install "gatewise\[{extra}\]"'):
        read_images(name)


# .npz files


def test_bytes_are_divided_by_255(npz):
    rows = read_images(npz())
    assert torch.equal(rows.images, torch.from_numpy(BYTES).float() / 255)
    assert rows.labels.tolist() == LABELS.tolist()
    assert rows.index.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_kept_and_not_clipped(npz, dtype):
    rows = read_images(npz(BYTES.astype(dtype) - 100))
    assert rows.images.dtype == torch.float32
    assert torch.equal(rows.images, torch.from_numpy(BYTES).float() - 100)
    assert rows.pixel_range == (int(BYTES.min()) - 100, int(BYTES.max()) - 100)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ((5, 4, 6, 3), (5, 3, 4, 6)),
        ((5, 4, 6, 1), (5, 1, 4, 6)),
        ((5, 3, 4, 3), (5, 3, 4, 3)),
        ((5, 1, 8, 1), (5, 1, 8, 1)),
        ((5, 2, 4, 6), (5, 2, 4, 6)),
        ((5, 4, 6), (5, 1, 4, 6)),
        ((5, 784, 1), (5, 784, 1)),
        ((5, 7), (5, 7)),
    ],
)
def test_where_the_channels_are(npz, stored, read):
    images = np.random.default_rng(0).integers(0, 256, stored, dtype=np.uint8)
    rows = read_images(npz(images)).images
    assert rows.shape == read
    if stored[1:] != read[1:] and len(stored) == 4:
        assert torch.equal(rows[2, :, 1, 3], torch.from_numpy(images[2, 1, 3, :]).float() / 255)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": BYTES.astype(np.int64)}, r"must be \(N, …\) of uint8 or floating-point numbers, got int64"),
        ({"images": np.zeros(5, np.uint8)}, r"uint8 of shape \(5,\)"),
        ({"images": np.zeros((5, 0, 3))}, r"float64 of shape \(5, 0, 3\)"),
        ({"images": np.array([object()] * 5)}, "holds Python objects, which are not read"),
        ({"labels": np.array([None] * 5)}, "holds Python objects, which are not read"),
        ({"labels": LABELS.astype(float)}, r"must be \(N,\) whole numbers, got float64"),
        ({"labels": LABELS[:, None]}, r"whole numbers, got int64 of shape \(5, 1\)"),
        ({"labels": LABELS[:4]}, "5 images but 4 labels"),
        ({"labels": LABELS - 2}, "has the label -1"),
        ({"images": BYTES[:0], "labels": LABELS[:0]}, "holds no images"),
        ({"images": np.where(np.arange(5)[:, None] == 3, np.nan, 0.5)}, "NaN or an infinity .* position 3"),
        ({"images": np.where(np.arange(5)[:, None] == 2, 1e300, 0.5)}, "more than float32 can hold.* position 2"),
    ],
)
def test_arrays_that_are_no_labelled_images(npz, content, said):
    with pytest.raises(InvalidInput, match=said):
        read_images(npz(**content))


def test_a_nan_outside_the_chosen_rows_does_no_harm(npz):
    assert len(read_images(npz(np.where(np.arange(5)[:, None] == 3, np.nan, 0.5)), count=3)) == 3


def test_missing_arrays_are_named(tmp_path):
    np.savez(tmp_path / "data.npz", images=BYTES, y=LABELS)
    with pytest.raises(InvalidInput, match=r"has no 'labels' \(it has images, y\)"):
        read_images(str(tmp_path / "data.npz"))


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.0])
def test_truncated_npz(npz, tmp_path, kept):
    path = tmp_path / "data.npz"
    npz()
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InvalidInput, match="truncated"):
        read_images(str(path))


def test_spoilt_and_missing_npz(npz, tmp_path):
    path = tmp_path / "data.npz"
    npz()
    content = bytearray(path.read_bytes())
    content[300] ^= 255
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="truncated or broken"):
        read_images(str(path))
    with pytest.raises(InvalidInput, match=r"data file .*other\.npz does not exist"):
        read_images(str(tmp_path / "other.npz"))


# Choosing rows


def test_count_takes_the_first_and_at_most_all(npz):
    assert read_images(npz(), count=2).labels.tolist() == [3, 1]
    assert len(read_images(npz(), count=100)) == 5
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        read_images(npz(), count=0)


@pytest.mark.parametrize(
    ("table", "chosen", "index"),
    [
        ("4\n0\n\n4\n", "", [4, 0, 4]),
        ("row,class\n2,easy\n4,hard\n1, hard \n", ":hard", [4, 1]),
        ("\ufeffrow,class\n2,easy\n", "", [2]),
        ("3,x\n1,y\n", "", [3, 1]),
    ],
)
def test_index_files(npz, tmp_path, table, chosen, index):
    (tmp_path / "rows.csv").write_text(table, encoding="utf-8")
    assert read_images(npz(), indices=f"{tmp_path / 'rows.csv'}{chosen}").index.tolist() == index


@pytest.mark.parametrize(
    ("table", "chosen", "said"),
    [
        ("1\n5\n", "", "position 5, but .* has positions 0 to 4"),
        ("-1\n", "", "position -1"),
        ("row\n1\ntwo\n", "", r"Row 2 of .*rows\.csv has 'two' in column 1; it must be a whole number"),
        ("1,hard\n", ":hard", "has no column named class"),
        ("row,class\n1\n", ":hard", "Row 1 of .* has no column 2"),
        ("row,class\n", "", "has no rows"),
        ("", "", "has no rows"),
    ],
)
def test_index_files_that_cannot_be_used(npz, tmp_path, table, chosen, said):
    (tmp_path / "rows.csv").write_text(table)
    with pytest.raises(InvalidInput, match=said):
        read_images(npz(), indices=f"{tmp_path / 'rows.csv'}{chosen}")


def test_index_files_that_are_no_text(npz, tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match=r"is not a \.csv text file"):
        read_images(npz(), indices=str(tmp_path / "rows.csv"))
    with pytest.raises(InvalidInput, match=r"index file .*no\.csv does not exist"):
        read_images(npz(), indices=f"{tmp_path / 'no.csv'}:hard")


# Folders of images


def test_a_folder_in_the_order_of_its_table(folder):
    table = ["file,label", "b.png,7", "a.png,2", "b.png,3"]
    rows = read_images(folder({"a.png": picture(colour=10), "b.png": picture(colour=255)}, table))
    assert rows.images.shape == (3, 3, 4, 6)
    assert rows.labels.tolist() == [7, 2, 3]
    assert rows.images[:, 0, 0, 0].tolist() == pytest.approx([1, 10 / 255, 1])
    assert rows.images[0, 1].unique().tolist() == pytest.approx([20 / 255])


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_modes_of_images(folder, mode, channels):
    assert read_images(folder({"a.png": picture(mode)})).images.shape == (1, channels, 4, 6)


def test_only_the_chosen_files_are_read(folder, tmp_path):
    name = folder({"a.png": picture(), "b.png": picture(size=(3, 3))})
    assert len(read_images(name, count=1)) == 1
    with pytest.raises(InvalidInput, match=r"differ in shape: a\.png is \(3, 4, 6\), b\.png is \(3, 3, 3\)"):
        read_images(name)


def test_photos(data_folder, tmp_path):
    shutil.copy(data_folder / "imagenet_samples/imagenet_00_243.jpg", tmp_path)
    (tmp_path / "labels.csv").write_text("imagenet_00_243.jpg,243")
    rows = read_images(str(tmp_path))
    assert rows.images.shape == (1, 3, 512, 512)
    assert rows.labels.tolist() == [243]


def see_through():
    return Image.new("RGBA", (6, 4), (1, 2, 3, 100))


@pytest.mark.parametrize(
    ("images", "table", "said"),
    [
        ({}, ["gone.png,1"], r"image .*gone\.png does not exist"),
        ({"a.png": see_through()}, None, "see-through pixels"),
        ({"a.png": Image.new("I;16", (6, 4))}, None, "more than 8 bits"),
        ({"a.png": picture()}, ["a.png"], "Row 1 of .* has no column 2|has no rows"),
        ({"a.png": picture()}, ["a.png,1", "a.png,dog"], "Row 2 of .* has 'dog' in column 2"),
        ({"a.png": picture()}, ["a.png,-1"], "has the label -1"),
        ({"a.png": picture()}, ["file,label"], "has no rows"),
    ],
)
def test_folders_that_cannot_be_used(folder, images, table, said):
    with pytest.raises(InvalidInput, match=said):
        read_images(folder(images, table))


def test_truncated_images_and_folders_without_labels(folder, tmp_path):
    with pytest.raises(InvalidInput, match=r"has no labels\.csv; write one"):
        read_images(str(tmp_path))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    name = folder({"a.png": noise})
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match=r"a\.png is truncated or not an image"):
        read_images(name)
