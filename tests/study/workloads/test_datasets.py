from __future__ import annotations

import hashlib
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.datasets import CIFAR10, MNIST

from study.workloads import cifar, datasets, image_folder, mnist
from study.workloads.base import Data, Workload
from study.workloads.datasets import CACHE_VARIABLE, DATA_VARIABLE, DataError

REAL_DATA = datasets.data_dir()  # before a fixture hides it


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    return tmp_path / "cache"


def workload(load: Callable[[Path], Data]) -> Workload:
    return Workload("test", load, nn.Identity)


def some_data() -> Data:
    return Data(torch.zeros(2, 3), torch.zeros(2), torch.zeros(1, 3), torch.zeros(1))


def snapshot(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")])


# Folders


def test_data_folder_is_the_option_then_the_variable_then_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert datasets.data_dir() == cache / "data"
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "variable"))
    assert datasets.data_dir() == tmp_path / "variable"
    assert datasets.data_dir(tmp_path / "option") == tmp_path / "option"
    monkeypatch.delenv(DATA_VARIABLE)
    monkeypatch.delenv(CACHE_VARIABLE)
    assert datasets.data_dir() == platformdirs.user_cache_path("hypergrad-study", appauthor=False) / "data"


def test_folders_are_absolute_and_know_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert datasets.data_dir(Path("data")) == tmp_path / "data"
    monkeypatch.setenv(DATA_VARIABLE, "~/sets")
    assert datasets.data_dir() == Path.home() / "sets"


# Loading once


def test_data_are_loaded_once_per_process_and_folder(tmp_path: Path) -> None:
    asked: list[Path] = []

    def load(folder: Path) -> Data:
        asked.append(folder)
        return some_data()

    first = datasets.load(workload(load), tmp_path, "cpu")
    assert datasets.load(workload(load), tmp_path, torch.device("cpu")) is first
    assert datasets.load(workload(load), tmp_path / "other", "cpu") is not first
    assert asked == [tmp_path, tmp_path / "other"]


def test_load_moves_the_data_to_the_device(tmp_path: Path) -> None:
    data = datasets.load(workload(lambda _: some_data()), tmp_path, "meta")
    assert {tensor.device.type for tensor in vars(data).values()} == {"meta"}


def test_a_load_that_returns_something_else_is_an_error(tmp_path: Path) -> None:
    wrong = workload(lambda _: {"train": 1})  # type: ignore[arg-type, return-value]
    with pytest.raises(DataError, match=r"'test': load returned dict, not study\.workloads\.base\.Data"):
        datasets.load(wrong, tmp_path, "cpu")


def test_a_cache_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(
        DataError, match=f"cannot write the cache folder {tmp_path / 'file'}.*{CACHE_VARIABLE}"
    ):
        datasets.load(workload(lambda _: some_data()), tmp_path, "cpu")


RACER = """
import sys, time
from pathlib import Path
import torch
from study.workloads import datasets
from study.workloads.base import Data, Workload

folder, me = Path(sys.argv[1]), sys.argv[2]

def dataset(root, download):
    if download:
        with open(folder / "downloads", "a") as log:
            log.write(me)
        time.sleep(0.5)
        (root / "set").write_text("42")
    if not (root / "set").exists():
        raise RuntimeError("absent")
    return float((root / "set").read_text())

def load(root):
    value = datasets.open_or_download(dataset, root, what="set", files="set", source="nowhere")
    return Data(*(torch.full((1,), value) for _ in range(4)))

(folder / f"ready-{me}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
sys.exit(datasets.load(Workload("w", load, None), folder / "data", "cpu").train_inputs.item() != 42)
"""


def test_two_processes_download_once(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen([sys.executable, "-c", RACER, str(tmp_path), str(i)], env=dict(os.environ))
        for i in range(2)
    ]
    assert [racer.wait(timeout=120) for racer in racers] == [0, 0]
    assert len((tmp_path / "downloads").read_text()) == 1


# MNIST


def write_idx(raw: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write three training pictures and two test pictures in MNIST's format; return the former."""
    random = np.random.default_rng(0)
    raw.mkdir(parents=True, exist_ok=True)
    for split, n in (("t10k", 2), ("train", 3)):
        images = random.integers(256, size=(n, 28, 28), dtype=np.uint8)
        labels = random.integers(10, size=n, dtype=np.uint8)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 2051, n, 28, 28) + images.tobytes()
        )
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, n) + labels.tobytes())
    return images, labels


def offline(self: MNIST) -> None:
    Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
    (Path(self.raw_folder) / "train-images-idx3-ubyte").write_bytes(b"half")
    raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried it, got:\nname not resolved\n")


def test_mnist_is_read_without_writing_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "download", offline)
    folder = tmp_path / "data"
    images, labels = write_idx(folder / "MNIST" / "raw")
    before = snapshot(folder)
    folder.chmod(0o555)
    try:
        data = datasets.load(workload(mnist.load), folder, "cpu")
    finally:
        folder.chmod(0o755)
    assert snapshot(folder) == before
    expected = (images.reshape(3, 784) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(data.train_inputs.numpy(), expected, rtol=0, atol=1e-6)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_targets.tolist() == labels.tolist()
    assert data.val_inputs.shape == (2, 784)
    theirs = MNIST(folder, train=False)
    np.testing.assert_allclose((data.val_inputs * 0.3081 + 0.1307) * 255, theirs.data.flatten(1), atol=1e-3)
    assert torch.equal(data.val_targets, theirs.targets)


@pytest.mark.parametrize("length", [0, 3, 6, 15, 16, 100])
def test_an_mnist_file_that_was_cut_off_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(MNIST, "download", offline)
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match="MNIST is incomplete"):
        mnist.load(tmp_path)


def test_mnist_is_downloaded_into_the_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "download", lambda self: write_idx(Path(self.raw_folder)) and None)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").touch()  # left over from a download that was broken off
    downloaded = mnist.load(tmp_path)
    monkeypatch.setattr(MNIST, "download", offline)
    torch.testing.assert_close(mnist.load(tmp_path).train_inputs, downloaded.train_inputs)
    assert len(downloaded.val_targets) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_failed_download_says_what_from_where_and_what_would_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MNIST, "download", offline)
    folder = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        mnist.load(folder)
    told = str(caught.value)
    assert "\n" not in told
    for part in ("MNIST", str(folder), MNIST.mirrors[0], "name not resolved", "--data", DATA_VARIABLE):
        assert part in told
    assert list(folder.iterdir()) == []  # not even half a file


@pytest.mark.mnist
def test_mnist_training_images_are_the_published_ones() -> None:
    if not (REAL_DATA / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST in the data folder; set {DATA_VARIABLE}")
    data = mnist.load(REAL_DATA)
    pixels = ((data.train_inputs * mnist.STD + mnist.MEAN) * 255).round().to(torch.uint8)
    file = struct.pack(">4I", 2051, 60000, 28, 28) + pixels.numpy().tobytes()
    assert hashlib.md5(file).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert data.train_targets.bincount().tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert data.val_inputs.shape == (10000, 784)
    assert data.train_inputs.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.train_inputs.std().item() == pytest.approx(1, abs=1e-3)


# CIFAR-10


def test_cifar10_keeps_colours_rows_and_columns_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / CIFAR10.base_folder
    base.mkdir()

    def write(name: str, content: dict[str, object]) -> list[str]:
        (base / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((base / name).read_bytes()).hexdigest()]

    rows = np.zeros((2, 3072), dtype=np.uint8)  # a row is 1024 red, 1024 green, 1024 blue, each row by row
    rows[1, 1024 + 32 * 5 + 7] = 200
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", {"data": rows, "labels": [3, 9]})])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", {"data": rows[:1], "labels": [4]})])
    name, md5 = write("batches.meta", {"label_names": ["name"] * 10})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})

    data = cifar.load_cifar10(tmp_path)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_inputs.nonzero().tolist() == [[1, 1, 5, 7]]
    assert data.train_inputs[1, 1, 5, 7] == 200
    assert data.train_targets.tolist() == [3, 9]
    assert data.train_targets.dtype == torch.int64
    assert data.val_inputs.shape == (1, 3, 32, 32)


def test_cifar10_says_that_it_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: CIFAR10) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(
        DataError, match=rf"CIFAR-10 .*{CIFAR10.base_folder}.*{CIFAR10.url}.*unreachable.*--data"
    ):
        cifar.load_cifar10(tmp_path)


# Pictures

MODES = {"a": ("RGB", (32, 32)), "b": ("L", (32, 32)), "c": ("RGBA", (48, 40))}


def write_pictures(root: Path, *splits: str) -> list[Path]:
    random = np.random.default_rng(0)
    files = []
    for split in splits:
        for name, (mode, size) in MODES.items():
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                noise = random.integers(256, size=(size[1], size[0], 4), dtype=np.uint8)
                files.append(root / split / name / f"{i}.png")
                Image.fromarray(noise).convert(mode).save(files[-1])
    return files


def as_pil(files: list[Path], size: int = 32) -> torch.Tensor:
    read = [Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for file in files]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in read])).permute(0, 3, 1, 2)


def test_pictures_are_decoded_as_pil_decodes_them(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "set", "train", "test")
    for size in (32, 40):
        data = image_folder.load(tmp_path, path="set", classes=3, size=size)
        torch.testing.assert_close(data.train_inputs, as_pil(files[:6], size))
        torch.testing.assert_close(data.val_inputs, as_pil(files[6:], size))
        assert data.train_targets.tolist() == data.val_targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_val_is_preferred_to_test_and_paths_may_be_absolute(tmp_path: Path) -> None:
    files = write_pictures(tmp_path / "set", "train", "test", "val")
    data = image_folder.load(tmp_path / "elsewhere", path=str(tmp_path / "set"), classes=3, size=32)
    torch.testing.assert_close(data.val_inputs, as_pil(files[12:]))


def test_pictures_are_decoded_again_only_when_a_file_changes(tmp_path: Path) -> None:
    first, *_ = write_pictures(tmp_path, "train", "val")
    before = image_folder.load(tmp_path, path=".", classes=3, size=32).train_inputs

    status, content = first.stat(), first.read_bytes()
    first.write_bytes(bytes(len(content)))  # unreadable, if it were read
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    torch.testing.assert_close(image_folder.load(tmp_path, path=".", classes=3, size=32).train_inputs, before)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    with pytest.raises(DataError, match="cannot read"):
        image_folder.load(tmp_path, path=".", classes=3, size=32)

    Image.new("RGB", (32, 32)).save(first)
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = image_folder.load(tmp_path, path=".", classes=3, size=32).train_inputs
    assert not after[0].any()
    torch.testing.assert_close(after[1:], before[1:])


def test_another_number_of_classes_says_what_to_write(tmp_path: Path) -> None:
    write_pictures(tmp_path, "train", "val")
    with pytest.raises(DataError, match=f"{tmp_path} has 3 classes where 10 were expected.*classes: 3"):
        image_folder.load(tmp_path, path=".", classes=10, size=32)


def test_folders_that_are_not_pictures_are_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"no folder {tmp_path / 'set' / 'train'};.*data folder {tmp_path}"):
        image_folder.load(tmp_path, path="set", classes=3, size=32)
    write_pictures(tmp_path / "set", "train")
    with pytest.raises(DataError, match=r"set/val or .*set/test;"):
        image_folder.load(tmp_path, path="set", classes=3, size=32)
    (tmp_path / "set" / "test" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="Found no valid file for the classes a"):
        image_folder.load(tmp_path, path="set", classes=3, size=32)
    Image.new("RGB", (32, 32)).save(tmp_path / "set" / "test" / "a" / "0.png")
    with pytest.raises(DataError, match="training and validation differ in b, c"):
        image_folder.load(tmp_path, path="set", classes=3, size=32)


def test_a_broken_picture_is_named_and_leaves_nothing_in_the_cache(tmp_path: Path, cache: Path) -> None:
    files = write_pictures(tmp_path, "train", "val")
    files[-1].write_bytes(files[-1].read_bytes()[:100])
    with pytest.raises(DataError, match=f"cannot read the picture {files[-1]}"):
        image_folder.load(tmp_path, path=".", classes=3, size=32)
    assert list((cache / "pictures").iterdir()) == []
