"""Remembers how fast this machine trained, started and reported, for the time estimate of the next plan.

The file ``speeds.json`` in the folder of caches has a section per machine. It is an aid: if it is lost or
damaged, times are unknown until a study has run again.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from study.config.trial import Trial
from study.execution.load_balancing import PACK_START
from study.storage.records import TrialRecord
from study.training.process_limits import cpu_count

FORMAT = 1
FILE = "speeds.json"
KEPT_ENDS = 8


@dataclass
class Speeds:
    """The known speeds of a machine. Times are in seconds of wall-clock time."""

    start: float | None = None
    """Time from the start of the program to the first trial; None if unknown."""
    gap: float = 0.0
    """Time between two packs, or trials that train alone, in one process, to build and write."""
    ends: list[tuple[int, float]] = field(default_factory=list)
    """For past runs, the number of trials, and the time from the end of the last trial to the end of the
    program, in which MLflow and the report finish."""
    rates: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By ``work_name``: the time of an iteration, and the iterations of an epoch. For trials that train in
    packs, the time is per member of a large pack: an iteration of k members takes k + ``PACK_START`` times
    it."""

    def end(self, trials: int) -> float | None:
        """Return the time after the last of this many trials, from the past run of the most similar size."""
        if not self.ends:
            return None
        return min(self.ends, key=lambda known: abs(math.log(max(1, known[0]) / max(1, trials))))[1]

    def pack_seconds(self, pack: Sequence[Trial], *, gpus: float) -> float | None:
        """Return the training time of a pack, or of a trial alone; None if not known.

        Args:
            pack: Trials that train together; a trial by itself is a pack of one.
            gpus: GPUs per trial; may be a fraction.
        """
        packed = len(pack) > 1
        rate = self.rates.get(work_name(pack[0], packed=packed, gpus=gpus))
        if rate is None:
            return None
        seconds, per_epoch = rate
        counts = [trial.iterations or (trial.epochs or 0) * per_epoch for trial in pack]
        members = sum(counts) / max(counts) + PACK_START if packed else 1
        return max(counts) * members * seconds


def work_name(trial: Trial, *, packed: bool, gpus: float) -> str:
    """Return the settings that the time of an iteration depends on, as text."""
    device = "gpu" if gpus else "cpu"
    own: list[Any] = [
        trial.workload,
        dict(trial.workload_args),
        trial.optimizer,
        trial.rule,
        trial.granularity,
    ]
    own += [trial.batch_size, trial.schedule is not None, "pack" if packed else "alone", device]
    return json.dumps(own, sort_keys=True)


def home() -> Path:
    """Return the folder of caches, which holds ``speeds.json``."""
    from study.workloads import datasets  # imports torch

    return datasets.cache_dir()


def load(folder: Path) -> Speeds:
    """Return the known speeds of this machine, from a folder of caches; unknown ones if it has none."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        known = _read(folder)[_machine()]
        return Speeds(
            start=None if known["start"] is None else float(known["start"]),
            gap=float(known["gap"]),
            ends=[(int(trials), float(seconds)) for trials, seconds in known["ends"]],
            rates={str(name): (float(rate), int(count)) for name, (rate, count) in known["rates"].items()},
        )
    return Speeds()


def save(folder: Path, speeds: Speeds) -> None:
    """Write the speeds of this machine into a folder of caches; do nothing if that fails."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        machines: dict[str, Any] = {}
        with suppress(OSError, ValueError, TypeError):
            machines = _read(folder)
        draft = folder / f"{FILE}.{os.getpid()}"
        content = {"format": FORMAT, "machines": {**machines, _machine(): asdict(speeds)}}
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        draft.replace(folder / FILE)


def learn_end(folder: Path, trials: int, seconds: float) -> None:
    """Remember the seconds from the end of the last of this many trials to the end of the program."""
    speeds = load(folder)
    others = [known for known in speeds.ends if known[0] != trials]
    speeds.ends = [*others, (trials, seconds)][-KEPT_ENDS:]
    save(folder, speeds)


def learn(
    speeds: Speeds,
    packs: Sequence[Sequence[Trial]],
    records: Mapping[str, TrialRecord],
    *,
    since_ms: int,
    ready_ms: int,
    slots: int,
    gpus: float,
) -> Speeds:
    """Return the speeds with those of a run added.

    A pack counts only if it began in this run, and trained to its end or to the end of the run's time. A new
    speed is the mean of this run's and the one before.

    Args:
        speeds: The speeds before the run.
        packs: The trials that trained together; a trial by itself is a pack of one.
        records: Records of the trials, by key.
        since_ms: When the program began, in Unix milliseconds.
        ready_ms: When workers could run, in Unix milliseconds.
        slots: Number of packs that trained at a time.
        gpus: GPUs per trial; may be a fraction.
    """
    spans = []
    found: dict[str, list[tuple[float, int]]] = {}
    for pack in packs:
        of_pack = [records[trial.key] for trial in pack]
        if not all(_is_of_this_run(record, since_ms) for record in of_pack):
            continue
        begin = min(record.resumed_ms for record in of_pack)
        end = max(record.ended_ms or record.epochs[-1].time_ms for record in of_pack)
        spans.append((begin, end))
        counts = [record.iterations for record in of_pack]
        members = sum(counts) / max(counts) + PACK_START if len(pack) > 1 else 1
        name = work_name(pack[0], packed=len(pack) > 1, gpus=gpus)
        per_epoch = max(record.epochs[0].iterations for record in of_pack)
        rate = (end - begin) / 1000 / (max(counts) * members)
        found.setdefault(name, []).append((rate, per_epoch))
    if not spans:
        return speeds
    rates = dict(speeds.rates)
    for name, measured in found.items():
        rate = sum(rate for rate, _ in measured) / len(measured)
        before = rates.get(name)
        rates[name] = (rate if before is None else (rate + before[0]) / 2, measured[0][1])
    start = (min(begin for begin, _ in spans) - since_ms) / 1000
    start = start if speeds.start is None else (start + speeds.start) / 2
    return Speeds(start, _mean_gap(spans, ready_ms, slots, speeds.gap), speeds.ends, rates)


def _is_of_this_run(record: TrialRecord, since_ms: int) -> bool:
    """Return whether a trial trained only in the run that began at ``since_ms``, and did not fail."""
    began_here = since_ms <= record.started_ms == record.resumed_ms
    return began_here and record.status in ("finished", "diverged", "running") and bool(record.epochs)


def _mean_gap(spans: Sequence[tuple[int, int]], ready_ms: int, slots: int, before: float) -> float:
    """Return the mean time between two packs of one process, in seconds; ``before`` if there are none.

    The process that trained a pack is not recorded: it is assumed to be the one that became free last.
    """
    free = [ready_ms] * slots
    gaps = []
    for begin, end in sorted(spans):
        chosen = max((slot for slot in range(slots) if free[slot] <= begin), key=free.__getitem__, default=0)
        if free[chosen] != ready_ms:
            gaps.append(max(0, begin - free[chosen]))
        free[chosen] = end
    return sum(gaps) / len(gaps) / 1000 if gaps else before


def _read(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise ValueError("another format")
    machines: dict[str, Any] = content["machines"]
    return machines


def _machine() -> str:
    return f"{platform.node()}, {platform.machine()}, {cpu_count()} CPUs"
