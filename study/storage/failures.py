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

from study.config.trial import Trial, is_dotted
from study.storage.records import TrialRecord

__all__ = ["Failure", "cause_of", "failures", "place_of"]

_HEADER = "Traceback (most recent call last):"
_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+)')
_STANDARD_LIBRARY = re.compile(r"^<|/lib/python3\.\d+/|/python3\d+\.zip/|/Lib/")
_INSTALLED = re.compile(r"/(?:site|dist)-packages/(?P<package>\w+)")
_OWN_ERROR = re.compile(r"^(?:study|hypergrad)(?:\.\w+)*\.\w+: ")
"""The type of an exception of this package, whose message is a sentence for people."""
_LIBRARIES = frozenset({"torch", "torchvision", "numpy", "ray", "study", "hypergrad"})


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one cause.

    Attributes:
        cause: the exception's type and message, on one line.
        place: ``FILE:LINE`` of the user's code where it was raised, or from where what raised it was called;
            None if no code of the user's is known.
        workloads: names of the workloads that it hit, in the order of the trials.
        optimizers: labels of the optimizers that it hit, in the order of the trials.
        trials: how many trials it hit.
        traceback: the whole traceback of the first of them.
    """

    cause: str
    place: str | None
    workloads: tuple[str, ...]
    optimizers: tuple[str, ...]
    trials: int
    traceback: str

    @classmethod
    def of(cls, trial: Trial, traceback: str) -> Failure:
        """Return the failure of one trial."""
        place = place_of(traceback, _packages(trial))
        return cls(cause_of(traceback), place, (trial.workload,), (trial.label,), 1, traceback)


def failures(records: Iterable[TrialRecord]) -> list[Failure]:
    """Return why trials failed, each distinct cause once, in the order of the trials.

    Two causes are the same if they come from the same place with the same message but for its numbers.

    Args:
        records: of any trials; only those that failed count.
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

    If that line ends in a colon, the next one belongs to it. An exception of this package goes without its
    type, as its message is a sentence of its own.
    """
    lines = traceback.splitlines()
    starts = [index for index, line in enumerate(lines) if line == _HEADER]
    if starts:
        after = lines[starts[-1] + 1 :]
        # Frames and the source lines below them are indented; what was raised is not.
        first = next((index for index, line in enumerate(after) if line and line[0] != " "), len(after))
        message = [line.strip() for line in after[first:] if line.strip()]
    else:
        message = [line.strip() for line in lines if line.strip()][-1:]
    if not message:
        return "no error was kept"
    cause = f"{message[0]} {message[1]}" if message[0].endswith(":") and len(message) > 1 else message[0]
    return _OWN_ERROR.sub("", cause)


def place_of(traceback: str, packages: Iterable[str] = ()) -> str | None:
    """Return ``FILE:LINE`` of the innermost frame that is the user's; None if there is none.

    Code of torch, of this package and of the standard library is not the user's. That of another installed
    package counts only where no other frame does.

    Args:
        traceback: as Python formats it.
        packages: top-level modules that are the user's even if they are installed.
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
    """The top-level modules of a trial's own workload and optimizer."""
    if ":" in trial.workload:
        yield trial.workload.partition(":")[0].partition(".")[0]
    if is_dotted(trial.optimizer):
        yield trial.optimizer.partition(".")[0]


@cache
def _is_ours(path: str) -> bool:
    """Whether a file is this package's, wherever the package lay where the trial ran."""
    packages = Path(__file__).parents[2]
    for name in ("study", "hypergrad"):
        _, separator, inside = path.rpartition(f"/{name}/")
        if separator and (packages / name / inside).is_file():
            return True
    return False
