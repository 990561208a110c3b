"""What a worker does with a pack: trains it, every member into its own journal.

Journals and checkpoints are those of single trials: a member can go on in another pack or alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from study.config.trial import Trial
from study.storage import journal
from study.storage.journal import Journal
from study.storage.records import Status
from study.storage.study_folder import StudyFolder
from study.training import pack_limits, process_limits
from study.training import packs as packing
from study.training.checkpoints import Checkpoints
from study.training.device import choose_device, machine
from study.training.pack_limits import planned_limit
from study.training.packed_trainer import PackTraining
from study.workloads import datasets, registry
from study.workloads.base import Data, Workload

CHECKPOINT_SHARE = 0.05
"""Of a pack's time, for writing checkpoints: those of large packs are written less often."""

log = logging.getLogger(__name__)


def packs(
    trials: Sequence[Trial],
    folder: StudyFolder,
    data_folder: Path | None,
    size: int | None,
    *,
    cpus: float,
    gpus: float,
) -> list[list[Trial]]:
    """Return how a worker takes ``trials``: packs that fit into its memory, and trials by themselves.

    Args:
        trials: those that have ended come by themselves.
        folder: whose journals say which have.
        data_folder: where the data sets lie; None for the default.
        size: the study's ``pack``.
        cpus: cores of this process.
        gpus: its share of a GPU.
    """
    device = choose_device()
    worthwhile = planned_limit(size, on_gpu=device.type == "cuda")

    def limit(trial: Trial) -> int:
        most = worthwhile(trial)
        if size is not None or most == 1:
            return most
        workload = registry.resolve(trial.workload, trial.workload_args)
        try:
            data = datasets.load(workload, data_folder, device)
        except Exception:
            return 1  # each trial says in its journal what is wrong
        memory = pack_limits.available_memory(device, cpus=cpus, gpus=gpus)
        return min(most, pack_limits.fitting_members(workload, data, trial.batch_size, memory))

    ended = {record.trial for record in folder.records(trials) if record.is_complete}
    left = [trial for trial in trials if trial not in ended]
    return [[trial] for trial in trials if trial in ended] + [
        pack
        for members in packing.group_packable(left)
        for pack in (packing.make_packs(members, limit) if len(members) > 1 else [members])
    ]


def train_or_leave(
    trials: Sequence[Trial], folder: StudyFolder, data_folder: Path | None, checkpoint_seconds: float = 30.0
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` as one pack, or as smaller ones if memory runs out; yield each that ended, and how.

    Where a pack raises, its members are left where their journals and checkpoints say: trained alone, those
    that cannot be trained say why.
    """
    left = list(trials)
    try:
        for trial, status in train(trials, folder, data_folder, checkpoint_seconds):
            left.remove(trial)
            yield trial, status
        return
    except torch.OutOfMemoryError:
        half = len(left) // 2
    except OSError:
        raise
    except Exception as error:
        log.warning("a pack of %d trials is left to be trained one at a time: %s", len(left), error)
        return
    torch.cuda.empty_cache()
    if half > 1:
        yield from train_or_leave(left[:half], folder, data_folder, checkpoint_seconds)
        yield from train_or_leave(left[half:], folder, data_folder, checkpoint_seconds)


def train(
    trials: Sequence[Trial], folder: StudyFolder, data_folder: Path | None, checkpoint_seconds: float = 30.0
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials``, none of which has ended, as one pack; yield each when it has ended, and how.

    Those with checkpoints go on from them: members after unequally many iterations go on in a pack each.

    Raises:
        Exception: whatever building or training the pack raises. Members that have not been yielded are then
            where their journals and checkpoints say.
    """
    device = choose_device()
    workload = registry.resolve(trials[0].workload, trials[0].workload_args)
    data = datasets.load(workload, data_folder, device)
    found = {}
    for trial in trials:
        recorded = len(journal.read(folder.journal(trial), trial).epochs)
        found[trial.key] = Checkpoints(folder.checkpoint(trial)).newest(trial.key, recorded)
    together: dict[int, list[Trial]] = {}
    for trial in trials:
        state, _ = found[trial.key]
        together.setdefault(0 if state is None else state["iterations"], []).append(trial)
    for members in together.values():
        known = {trial.key: found[trial.key] for trial in members}
        yield from _train(members, workload, data, device, folder, known, checkpoint_seconds)


def _train(
    trials: Sequence[Trial],
    workload: Workload,
    data: Data,
    device: torch.device,
    folder: StudyFolder,
    found: Mapping[str, tuple[Mapping[str, Any] | None, list[str]]],
    checkpoint_seconds: float,
) -> Iterator[tuple[Trial, Status]]:
    states = {key: state for key, (state, _) in found.items() if state is not None}
    pack = PackTraining(trials, workload, data, device, states)
    trained_on = machine(device)
    with ExitStack() as stack:
        process_limits.allow_open_files(len(trials))
        journals = {}
        for trial in trials:
            # In another pack, or alone, the last digits differ: what is repeated is not taken for the same.
            opened = Journal(
                folder.journal(trial),
                trial,
                trained_on,
                repeatable=False,
                resumed=states[trial.key]["epoch"] if trial.key in states else 0,
                notes=found[trial.key][1],
            )
            journals[trial.key] = stack.enter_context(opened)
        saved, pause = time.monotonic(), checkpoint_seconds
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
                Checkpoints(folder.checkpoint(trial)).remove()
                yield trial, status
            if under_way and time.monotonic() - saved >= pause:
                begun = time.monotonic()
                for trial in pack.trials:
                    Checkpoints(folder.checkpoint(trial)).save(pack.state_dict(trial))
                saved = time.monotonic()
                pause = max(checkpoint_seconds, (saved - begun) / CHECKPOINT_SHARE)
