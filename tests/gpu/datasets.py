"""MNIST and CIFAR-10 from what came along with the repository; made-up data of the same shapes otherwise."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as PoolTimeout
from pathlib import Path

import numpy as np
import torch

from gpu import decoding
from study.workloads import mnist as mnist_workloads
from study.workloads.base import Data

DECODE_SECONDS = 40.0
"""For reading and decoding the pictures; longer, and the pictures are made up."""
CHUNK = 500
"""Pictures that a process decodes at a time."""
SHAPES = {"mnist": (784,), "cifar10": (3, 32, 32)}
ROWS = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000)}
"""For training and for validation."""
DRY_ROWS = {"mnist": (256, 64), "cifar10": (32, 16)}


def mnist(folder: Path | None, *, dry: bool = False) -> tuple[Data, str]:
    """Return MNIST and where it came from.

    Args:
        folder: A folder with ``MNIST/raw`` and its four files, plain or with ``.gz`` at the end.
        dry: Whether a few rows will do.
    """
    if folder is None:
        return _made_up("mnist", dry), "made up: no --data was given"
    with tempfile.TemporaryDirectory() as unpacked:
        raw = Path(unpacked, "MNIST", "raw")
        raw.mkdir(parents=True)
        for name in mnist_workloads.FILES:
            plain, packed = (folder / "MNIST" / "raw" / f"{name}{end}" for end in ("", ".gz"))
            if plain.is_file():
                (raw / name).symlink_to(plain.resolve())
            elif packed.is_file():
                with gzip.open(packed) as source, (raw / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
            else:
                return _made_up("mnist", dry), f"made up: {plain} is absent"
        return _some(mnist_workloads.load(Path(unpacked)), "mnist", dry), "MNIST"


def cifar10(archive: Path | None, *, dry: bool = False) -> tuple[Data, str]:
    """Return CIFAR-10 as uint8 pictures (n, 3, 32, 32), and where it came from.

    Args:
        archive: A tar archive, compressed or not, of ``train/CLASS/FILE`` and ``test/CLASS/FILE``. Each file
            is a picture of 32 × 32 pixels. Classes count from 0 in the order of their names.
        dry: Whether a few pictures will do.
    """
    if archive is None:
        return _made_up("cifar10", dry), "made up: no --pictures were given"
    started = time.monotonic()
    try:
        data = _decode_archive(archive, started + DECODE_SECONDS)
    except (PoolTimeout, OSError, ValueError, EOFError, tarfile.TarError) as error:
        reason = f"{type(error).__name__}: {error}".strip(": ")
        return _made_up("cifar10", dry), f"made up: {archive.name} was not decoded ({reason})"
    return _some(data, "cifar10", dry), f"{archive.name}, decoded in {time.monotonic() - started:.1f} s"


def _some(data: Data, name: str, dry: bool) -> Data:
    """Return the data; of a dry run as few rows as it needs."""
    if not dry:
        return data
    train, val = DRY_ROWS[name]
    return Data(
        data.train_inputs[:train], data.train_targets[:train], data.val_inputs[:val], data.val_targets[:val]
    )


def _made_up(name: str, dry: bool) -> Data:
    """Return rows of ten noisy classes, as many as the real data have; what is learned means nothing."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, *SHAPES[name], generator=generator)
    parts: list[torch.Tensor] = []
    for rows in DRY_ROWS[name] if dry else ROWS[name]:
        targets = torch.randint(10, (rows,), generator=generator)
        inputs = torch.randn(rows, *SHAPES[name], generator=generator).add_(centres[targets], alpha=0.5)
        if name == "cifar10":
            inputs = inputs.mul_(40).add_(128).clamp_(0, 255).to(torch.uint8)
        parts += [inputs, targets]
    return Data(*parts)


def _decode_archive(archive: Path, end: float) -> Data:
    """Decode all pictures on all cores; raise when ``end`` on the monotonic clock is over."""
    splits: dict[str, tuple[list[bytes], list[str]]] = {"train": ([], []), "test": ([], [])}
    for split, label, content in _members(archive, end):
        if split in splits:
            splits[split][0].append(content)
            splits[split][1].append(label)
    classes = sorted(set(splits["train"][1]))
    if len(classes) != 10 or not splits["test"][1]:
        raise ValueError(f"found {len(classes)} classes in train and {len(splits['test'][1])} test pictures")
    parts: list[torch.Tensor] = []
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(os.cpu_count(), mp_context=context)
    try:
        for contents, labels in splits.values():
            chunks = [contents[start : start + CHUNK] for start in range(0, len(contents), CHUNK)]
            decoded = pool.map(decoding.decode, chunks, timeout=max(0.1, end - time.monotonic()))
            parts.append(torch.from_numpy(np.concatenate(list(decoded))))
            parts.append(torch.tensor([classes.index(label) for label in labels]))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return Data(*parts)


def _members(archive: Path, end: float) -> Iterator[tuple[str, str, bytes]]:
    """Yield (split, class, content) of every file three levels deep, in one pass over the archive."""
    with tarfile.open(archive, "r|*") as opened:
        for member in opened:
            if time.monotonic() > end:
                raise PoolTimeout
            levels = [level for level in member.name.split("/") if level not in ("", ".")]
            if member.isfile() and len(levels) >= 3:
                content = opened.extractfile(member)
                assert content is not None
                yield levels[-3], levels[-2], content.read()
