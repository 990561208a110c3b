"""What a worker does with a pack: trains it, every member into its own journal.

Journals and checkpoints are those of single trials: a member can go on in another pack or alone.
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from study import checkpoints, journal, training, workloads
from study.folder import StudyFolder
from study.journal import Journal
from study.packing import PackTraining
from study.records import Status
from study.spec import Trial
from study.workloads import storage
from study.workloads.base import Data, Workload

CHECKPOINT_SHARE = 0.05
"""Of a pack's time, for writing checkpoints: those of large packs are written less often."""


def train(
    trials: Sequence[Trial], folder: StudyFolder, data_folder: Path | None
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials``, none of which has ended, as one pack; yield each when it has ended, and how.

    Those with checkpoints go on from them: members after unequally many iterations go on in a pack each.

    Raises:
        Exception: whatever building or training the pack raises. Members that have not been yielded are then
            where their journals and checkpoints say.
    """
    device = training.choose_device()
    workload = workloads.resolve(trials[0].workload, trials[0].workload_args)
    data = storage.load(workload, data_folder, device)
    states = {}
    for trial in trials:
        recorded = len(journal.read(folder.journal(trial), trial).epochs)
        states[trial.key] = checkpoints.load(folder.checkpoint(trial), recorded)
    together: dict[int, list[Trial]] = {}
    for trial in trials:
        state = states[trial.key]
        together.setdefault(0 if state is None else state["iterations"], []).append(trial)
    for members in together.values():
        known = {trial.key: state for trial in members if (state := states[trial.key]) is not None}
        yield from _train(members, workload, data, device, folder, known)


def _train(
    trials: Sequence[Trial],
    workload: Workload,
    data: Data,
    device: torch.device,
    folder: StudyFolder,
    states: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[Trial, Status]]:
    pack = PackTraining(trials, workload, data, device, states)
    machine = training.machine(device)
    with ExitStack() as stack:
        _allow_files(len(trials))
        journals = {}
        for trial in trials:
            epoch = states[trial.key]["epoch"] if trial.key in states else 0
            # In another pack, or alone, the last digits differ: what is repeated is not taken for the same.
            opened = Journal(folder.journal(trial), trial, machine, repeatable=False, resumed=epoch)
            journals[trial.key] = stack.enter_context(opened)
        saved, pause = time.monotonic(), checkpoints.SECONDS
        for records in pack.epochs():
            for trial, record in records:
                journals[trial.key].epoch(record)
            under_way = {trial.key for trial in pack.trials}
            for trial, record in records:
                if trial.key in under_way:
                    continue
                status: Status = "diverged" if record.diverged else "finished"
                with journals.pop(trial.key) as ended:
                    ended.end(status)
                folder.checkpoint(trial).unlink(missing_ok=True)
                yield trial, status
            if under_way and time.monotonic() - saved >= pause:
                begun = time.monotonic()
                checkpoints.save({folder.checkpoint(trial): pack.state_dict(trial) for trial in pack.trials})
                saved = time.monotonic()
                pause = max(checkpoints.SECONDS, (saved - begun) / CHECKPOINT_SHARE)


def _allow_files(count: int) -> None:
    """Let the process have a journal open for each of ``count`` members, if its hard limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
