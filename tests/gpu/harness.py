"""What the parts share: a file of results that survives a kill, a time budget, and timing."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent.parent
"""The repository."""


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, finds the old content or the new, never half of it."""
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


class Results:
    """The measurements of one part, written to a JSON file after each.

    Args:
        path: The file.
        part: The part's name.
    """

    def __init__(self, path: Path, part: str) -> None:
        self._path = path
        self._content: dict[str, Any] = {"part": part, "finished": False, "notes": {}, "measurements": []}
        self._saved = -math.inf
        self.errors = 0
        """Measurements that raised."""
        self.save()

    def note(self, **values: Any) -> None:
        """Record facts that hold for all measurements, such as where the data come from."""
        self._content["notes"].update(values)
        print(*(f"{name}: {value}" for name, value in values.items()), sep="\n")
        self.save()

    def add(self, what: str, *, show: bool = True, **values: Any) -> dict[str, Any]:
        """Record a measurement and return it; a caller that changes it later calls :meth:`save`."""
        measurement = {"what": what, **values}
        self._content["measurements"].append(measurement)
        if show:
            print(what, *(f"{name}={_short(value)}" for name, value in values.items()), flush=True)
        self.save()
        return measurement

    @contextlib.contextmanager
    def attempt(self, what: str, **labels: Any) -> Iterator[None]:
        """Record an exception of the block as a failed measurement and continue.

        Raises:
            RuntimeError: The device is unusable after the exception, so nothing more can be measured.
        """
        try:
            yield
        except Exception as error:
            self.errors += 1
            traceback.print_exc()
            self.add(what, **labels, error=f"{type(error).__name__}: {error}"[:2000])
            _check_device()

    def save(self, every: float = 0.0) -> None:
        """Write the file, but not within ``every`` seconds of the last time."""
        if time.monotonic() - self._saved >= every:
            write_whole(self._path, json.dumps(_jsonable(self._content), allow_nan=False))
            self._saved = time.monotonic()

    def finish(self) -> None:
        """Record that the part came to its end."""
        self._content["finished"] = True
        self.save()


def _jsonable(value: Any) -> Any:
    """Round numbers to six digits, and write NaN and infinities as text: JSON has none."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _check_device() -> None:
    """Raise if CUDA is unusable: after an illegal memory access every later call fails as well."""
    import torch

    if not torch.cuda.is_available():
        return
    try:
        torch.cuda.synchronize()
    except Exception as error:
        raise RuntimeError("the GPU is unusable in this process from here on") from error
    torch.cuda.empty_cache()


class Budget:
    """The seconds that a part may use.

    Args:
        seconds: How long, from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())

    def has(self, seconds: float) -> bool:
        """Return whether ``seconds`` are left."""
        return self.left >= seconds


@dataclass(frozen=True)
class Context:
    """What a part is given.

    Args:
        results: Where it records what it measures.
        budget: The seconds it may use; the runner ends it soon after.
        dry: Whether this is a trial run on the CPU, with tiny sizes.
        data: The folder that holds ``MNIST/raw``, or None.
        pictures: The archive of CIFAR-10 pictures, or None.
    """

    results: Results
    budget: Budget
    dry: bool
    data: Path | None
    pictures: Path | None

    @property
    def device(self) -> torch.device:
        """The device to measure on."""
        import torch

        return torch.device("cpu") if self.dry else torch.device("cuda", 0)


def benchmark(name: str) -> ModuleType:
    """Return a module of ``tests/benchmarks``, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / f"tests/benchmarks/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def milliseconds(
    call: Callable[[], object], device: torch.device, *, turns: int = 9, least: float = 10.0
) -> float:
    """Return the median milliseconds of a call.

    On a GPU the time is taken with CUDA events on the device. Three calls warm up; each turn then repeats the
    call for about ``least`` milliseconds.

    Args:
        call: What to time.
        device: Where it computes.
        turns: Number of turns, of which the median counts.
        least: Milliseconds of a turn.
    """
    for _ in range(3):
        call()
    count = max(1, math.ceil(least / max(1e-3, _turn(call, 1, device))))
    return statistics.median(_turn(call, count, device) for _ in range(turns))


def _turn(call: Callable[[], object], count: int, device: torch.device) -> float:
    """Return milliseconds per call over ``count`` calls."""
    synchronize(device)
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(count):
            call()
        return 1e3 * (time.perf_counter() - started) / count
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / count


def warm_up(device: torch.device, seconds: float = 0.5) -> None:
    """Keep a GPU busy until its clocks are up."""
    if device.type != "cuda":
        return
    import torch

    matrix = torch.randn(4096, 4096, device=device)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        torch.mm(matrix, matrix)
        torch.cuda.synchronize(device)
