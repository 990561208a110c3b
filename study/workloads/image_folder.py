"""A folder of pictures as arrays: decoded once per machine, read from the cache afterwards."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from study.workloads.base import Data
from study.workloads.datasets import DATA_VARIABLE, DataError, cache_dir, machine_lock

__all__ = ["load"]

_FORMAT = "1"
"""Part of every cache key; raise it when decoding changes."""
_CHUNK = 256
"""Pictures per task of the thread pool; a task for each would cost more than decoding a small picture."""


def load(folder: Path, *, path: str, classes: int, size: int) -> Data:
    """Return the pictures in ``path`` as uint8 inputs (n, 3, size, size) and int64 targets (n,).

    ``path`` holds ``train/CLASS/FILE`` and ``val/CLASS/FILE`` (or ``test`` if there is no ``val``), the
    layout of torchvision's ``ImageFolder``; classes count from 0 in the order of their names. Pictures are
    converted to RGB, and resized to size × size if they are not (bilinear; the aspect ratio is not kept).

    The arrays are kept in the cache folder under a key of the path, of every file's name, size and
    modification time, and of ``size``: after a change of a picture they are decoded again.

    Args:
        folder: Folder of the data sets.
        path: The folder of pictures, absolute or relative to ``folder``.
        classes: Required number of class folders.
        size: Height and width in pixels.

    Raises:
        DataError: The folders are not as described, or a picture cannot be read.
    """
    root = (folder / path).absolute()
    train, val = _list(root, _split(root, folder, "train")), _list(root, _split(root, folder, "val", "test"))
    if train.classes != val.classes:
        odd = sorted(set(train.classes) ^ set(val.classes))
        raise DataError(f"{root}: the classes for training and validation differ in {', '.join(odd[:5])}")
    if len(train.classes) != classes:
        raise DataError(
            f"{root} has {len(train.classes)} classes where {classes} were expected;"
            f" give the workload the argument classes: {len(train.classes)}"
        )
    key = hashlib.sha256(f"{_FORMAT} {root.resolve()} {size} {train.state} {val.state}".encode()).hexdigest()[
        :24
    ]
    cached = cache_dir() / "pictures" / key
    with machine_lock(f"pictures {key}"):
        if not cached.is_dir():
            _decode([train, val], size, cached)
    train_inputs, val_inputs = (torch.from_numpy(np.load(cached / f"{i}.npy")) for i in range(2))
    return Data(train_inputs, torch.tensor(train.targets), val_inputs, torch.tensor(val.targets))


@dataclass(frozen=True)
class _Listing:
    classes: list[str]
    files: list[str]
    targets: list[int]
    state: str
    """Hash over the files' names, sizes and modification times."""


def _split(root: Path, folder: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    relative = f" (a relative path counts from the data folder {folder}: --data or {DATA_VARIABLE})"
    raise DataError(
        f"there is no folder {' or '.join(str(root / name) for name in names)};"
        f" put pictures into train/CLASS and into val/CLASS or test/CLASS{relative}"
    )


def _list(root: Path, split: Path) -> _Listing:
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(split)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{split}: {' '.join(str(error).split())}") from error
    state = hashlib.sha256()
    for file, _ in found.samples:
        status = os.stat(file)
        state.update(f"{os.path.relpath(file, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    files, targets = zip(*found.samples, strict=True)
    return _Listing(found.classes, list(files), list(targets), state.hexdigest())


def _decode(splits: Sequence[_Listing], size: int, target: Path) -> None:
    """Write the pictures of split i to ``target/i.npy``; ``target`` appears when all are written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".decoding-", dir=target.parent))
    try:
        for i, split in enumerate(splits):
            np.save(staging / f"{i}.npy", _decode_files(split.files, size))
        staging.rename(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _decode_files(files: Sequence[str], size: int) -> NDArray[np.uint8]:
    pixels = np.empty((len(files), 3, size, size), dtype=np.uint8)

    def decode(start: int) -> int:
        stop = min(start + _CHUNK, len(files))
        for i in range(start, stop):
            pixels[i] = _decode_file(files[i], size)
        return stop

    said = time.monotonic()
    with ThreadPoolExecutor() as pool:
        for done in pool.map(decode, range(0, len(files), _CHUNK)):
            if time.monotonic() - said > 5:
                said = time.monotonic()
                print(f"decoding pictures, once per machine: {done:,} of {len(files):,}", file=sys.stderr)
    return pixels


def _decode_file(file: str, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            rgb = picture.convert("RGB")
    except Exception as error:  # PIL's decoders raise anything from OSError to SyntaxError
        raise DataError(f"cannot read the picture {file}: {error}") from error
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb).transpose(2, 0, 1)
