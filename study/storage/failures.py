"""Why trials failed: each distinct cause once, with the place in the user's code, from stored tracebacks.

Works from text alone, so that commands and reports need no torch and may run on another machine than the
trials did.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from study.config.optimizer_name import is_dotted
from study.config.trial import Trial
from study.storage.records import TrialRecord

__all__ = ["Failure", "cause_of", "failures", "place_of"]

_HEADER = "Traceback (most recent call last):"
_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
_STANDARD_LIBRARY = re.compile(r"^<|/lib/python3\.\d+/|/python3\d+\.zip/|/Lib/")
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(?P<package>\w+)")
_OWN_ERROR = re.compile(r"^(?:study|hypergrad)(?:\.\w+)*\.\w+: ")
"""The type of an exception of this package. Its message is a full sentence, so the type is left out."""
_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "ray", "study", "hypergrad"})


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same cause.

    Attributes:
        cause: Type and message of the exception, on one line.
        place: ``FILE:LINE`` of the user's code that raised it, or that called the code that raised it. None
            if no such frame is known.
        workloads: Names of the workloads that failed, in the order of the trials.
        optimizers: Labels of the optimizers that failed, in the order of the trials.
        trials: Number of trials that failed.
        traceback: Traceback of the first of them.
    """

    cause: str
    place: str | None
    workloads: tuple[str, ...]
    optimizers: tuple[str, ...]
    trials: int
    traceback: str

    @classmethod
    def of(cls, trial: Trial, traceback: str) -> Failure:
        """Return the failure of one trial, given its traceback."""
        place = place_of(traceback, _packages(trial))
        return cls(cause_of(traceback), place, (trial.workload,), (trial.label,), 1, traceback)


def failures(records: Iterable[TrialRecord]) -> list[Failure]:
    """Return why trials failed, each distinct cause once, in the order of the trials.

    Two causes are the same if they have the same place and the same message, numbers in it aside.

    Args:
        records: Records of any trials; only those of failed trials count.
    """
    found: dict[tuple[str, str | None], Failure] = {}
    for record in records:
        if record.status != "failed":
            continue
        new = Failure.of(record.trial, record.error or "")
        key = re.sub(r"0x[0-9a-f]+|\d+", "#", new.cause), new.place
        known = found.setdefault(key, new)
        if known is not new:
            found[key] = replace(
                known,
                workloads=tuple(dict.fromkeys(known.workloads + new.workloads)),
                optimizers=tuple(dict.fromkeys(known.optimizers + new.optimizers)),
                trials=known.trials + 1,
            )
    return list(found.values())


def cause_of(traceback: str) -> str:
    """Return the exception that a traceback ends in: its type and the first line of its message.

    If that line ends in a colon, the next one belongs to it. The type of an exception of this package is left
    out, as its message is a full sentence.
    """
    lines = traceback.splitlines()
    starts = [index for index, line in enumerate(lines) if line == _HEADER]
    if starts:
        after = lines[starts[-1] + 1 :]
        # Frames and the source lines below them are indented; the exception is not.
        first = next((index for index, line in enumerate(after) if line and line[0] != " "), len(after))
        message = [line.strip() for line in after[first:] if line.strip()]
    else:
        message = [line.strip() for line in lines if line.strip()][-1:]
    if not message:
        return "no error was kept"
    cause = f"{message[0]} {message[1]}" if message[0].endswith(":") and len(message) > 1 else message[0]
    return _OWN_ERROR.sub("", cause)


def place_of(traceback: str, packages: Iterable[str] = ()) -> str | None:
    """Return ``FILE:LINE`` of the innermost frame in the user's code; None if there is none.

    Code of torch, of this package and of the standard library is not the user's. A frame in another installed
    package counts only if there is no other.

    Args:
        traceback: The traceback, as Python formats it.
        packages: Top-level modules that are the user's even if they are installed.
    """
    users = set(packages) - _LIBRARIES
    own = installed = None
    for file, line in _FRAME.findall(traceback):
        path = file.replace("\\", "/")
        package = _INSTALLED.search(path)
        if package is None:
            if not _STANDARD_LIBRARY.search(path) and not _is_ours(path):
                own = f"{file}:{line}"
        elif package["package"] in users:
            own = f"{file}:{line}"
        elif package["package"] not in _LIBRARIES:
            installed = f"{file}:{line}"
    return own or installed


def _packages(trial: Trial) -> Iterator[str]:
    """Yield the top-level modules of a trial's own workload and optimizer."""
    if ":" in trial.workload:
        yield trial.workload.partition(":")[0].partition(".")[0]
    if is_dotted(trial.optimizer):
        yield trial.optimizer.partition(".")[0]


@cache
def _is_ours(path: str) -> bool:
    """Return whether a file is this package's, wherever the package lay where the trial ran."""
    packages = Path(__file__).parents[2]
    for name in ("study", "hypergrad"):
        _, separator, inside = path.rpartition(f"/{name}/")
        if separator and (packages / name / inside).is_file():
            return True
    return False
