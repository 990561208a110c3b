"""What came along with the repository is read; what did not is made up, and the results say so."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent

READS = """
import json, sys
from pathlib import Path
from gpu import datasets

if __name__ == "__main__":
    data, source = getattr(datasets, sys.argv[1])(Path(sys.argv[2]), dry=len(sys.argv) > 3)
    shapes = [list(data.train_inputs.shape), list(data.val_inputs.shape)]
    first = data.train_inputs[:2].flatten(1).double().mean(1).tolist()
    targets = [split.tolist()[:20] for split in (data.train_targets, data.val_targets)]
    print(json.dumps([source, shapes, *targets, first]))
"""


def read(name: str, path: Path, folder: Path, *more: str) -> list:
    """Return the source, the shapes, both targets and the means of two inputs, read in a process."""
    script = folder / "reads.py"
    script.write_text(READS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])}
    command = [sys.executable, script, name, path, *more]
    return json.loads(subprocess.check_output(command, env=environment, timeout=200))


def idx(array: np.ndarray) -> bytes:
    """Return an array of bytes in MNIST's file format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_mnist_is_read_from_plain_and_from_gzipped_files(packed, tmp_path):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pictures = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 251
    files = {
        "train-images-idx3-ubyte": pictures[:3],
        "train-labels-idx1-ubyte": np.array([7, 1, 4]),
        "t10k-images-idx3-ubyte": pictures[3:],
        "t10k-labels-idx1-ubyte": np.array([9, 0]),
    }
    for name, array in files.items():
        content = idx(array)
        (raw / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    source, shapes, train, val, means = read("mnist", tmp_path / "data", tmp_path)
    assert (source, shapes, train, val) == ("MNIST", [[3, 784], [2, 784]], [7, 1, 4], [9, 0])
    expected = [(picture.mean() / 255 - 0.1307) / 0.3081 for picture in pictures[:2]]
    np.testing.assert_allclose(means, expected, rtol=1e-5)


def test_mnist_that_is_absent_is_made_up(tmp_path):
    source, shapes, *_ = read("mnist", tmp_path, tmp_path)
    assert source == f"made up: {tmp_path}/MNIST/raw/train-images-idx3-ubyte is absent"
    assert shapes == [[60000, 784], [10000, 784]]


def archive(path: Path, *, size: int = 32) -> None:
    """Write an archive of two training pictures and one test picture of each class, classes out of order."""
    with tarfile.open(path, "w:xz") as opened:
        for split, count in (("train", 2), ("test", 1)):
            for label in (3, 1, 0, 2, 9, 8, 7, 6, 5, 4):
                for number in range(count):
                    picture = io.BytesIO()
                    pixels = np.full((size, size, 3), 20 * label + number, np.uint8)
                    Image.fromarray(pixels).save(picture, "PNG")
                    member = tarfile.TarInfo(f"./pictures/{split}/class{label}/{number}.png")
                    member.size = picture.tell()
                    picture.seek(0)
                    opened.addfile(member, picture)


def test_pictures_are_decoded_from_an_archive(tmp_path):
    archive(tmp_path / "pictures.tar.xz")
    source, shapes, train, val, means = read("cifar10", tmp_path / "pictures.tar.xz", tmp_path)
    assert source.startswith("pictures.tar.xz, decoded in ")
    assert shapes == [[20, 3, 32, 32], [10, 3, 32, 32]]
    assert train == [3, 3, 1, 1, 0, 0, 2, 2, 9, 9, 8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert val == [3, 1, 0, 2, 9, 8, 7, 6, 5, 4]
    assert means == [60, 61]


def test_pictures_that_cannot_be_decoded_are_made_up(tmp_path):
    whole = tmp_path / "pictures.tar.xz"
    archive(whole)
    cut = tmp_path / "cut.tar.xz"
    cut.write_bytes(whole.read_bytes()[:300])
    source, shapes, *_ = read("cifar10", cut, tmp_path)
    assert source.startswith("made up: cut.tar.xz was not decoded (")
    assert shapes == [[50000, 3, 32, 32], [10000, 3, 32, 32]]
