"""Limits the size of a pack: to the number of trials that is fastest, and that fits into memory.

The planner and the workers ask ``planned_limit``, so that they split trials into the same packs. Only a
worker knows its device and memory. If those allow less than was planned, ``WorkerLimit`` notes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from study.config.messages import describe_error
from study.config.trial import Trial
from study.training import packs, process_limits, stacked_model
from study.training.device import gpu_share
from study.training.packs import Limit
from study.training.user_errors import RAISED
from study.workloads import datasets, registry, torch_settings
from study.workloads.base import Data, Workload

CPU_MEMBERS = 256
"""Larger packs are not faster on a CPU; ``tests/benchmarks/packs.py`` shows it."""
CPU_BYTES = 10e6
"""Largest size of all members' parameters: as much as a core's cache may hold. Larger packs are slower than
single trials: four members of 7 MB took 1.2 times as long as one after the other."""
GPU_MEMBERS = 1024

TENSORS = 10
"""Tensors of the parameters' size during a step: the parameters, the gradient, up to three of the optimizer's
state, temporary ones, and the copy for a checkpoint."""
SHARE = 0.5
"""Share of the available memory that a pack may fill."""


def planned_limit(size: int | None, *, on_gpu: bool) -> Limit:
    """Return the limit up to which larger packs of a kind are faster, if there is memory for them.

    Args:
        size: The study's ``pack``, the largest number of trials; None for the fastest number.
        on_gpu: Whether the trials will train on a GPU.
    """
    known: dict[str, int] = {}

    def limit(trial: Trial) -> int:
        name = trial.kind
        if name not in known:
            known[name] = _worthwhile(trial, size, on_gpu=on_gpu)
        return known[name]

    return limit


class WorkerLimit:
    """The ``packs.Limit`` of one worker: as planned, or less if that does not fit.

    Args:
        size: The study's ``pack``. A size that a study sets is not measured: it is used as it is, and halved
            if memory runs out.
        cpus: CPU cores of this process.
        gpus: This process's share of a GPU, as the planner knows it.
        device: The device on which this process trains.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        alone: Trials that train by themselves, even if they could train in a pack.
    """

    def __init__(
        self,
        size: int | None,
        *,
        cpus: float,
        gpus: float,
        device: torch.device,
        data_folder: Path | None,
        alone: Iterable[Trial] = (),
    ) -> None:
        self._size, self._device, self._data_folder = size, device, data_folder
        self._planned = planned_limit(size, on_gpu=gpus > 0)
        self._here = planned_limit(size, on_gpu=device.type == "cuda")
        self._cpus, self._gpus = cpus, gpus
        self._alone = {trial.kind for trial in alone}
        self._known: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        """Why packs are smaller than planned, by kind."""

    def __call__(self, trial: Trial) -> int:
        """Return how many trials of the trial's kind fit into one pack."""
        if trial.kind not in self._known:
            self._known[trial.kind] = self._fitting(trial)
        return self._known[trial.kind]

    def _fitting(self, trial: Trial) -> int:
        planned = self._planned(trial)
        if trial.kind in self._alone or planned == 1:
            return 1
        limit, reason = self._here(trial), "planned for a GPU, and this process sees none"
        if self._size is None and limit > 1:
            memory = available_memory(self._device, cpus=self._cpus, gpus=self._gpus)
            fitting = self._measured(trial, memory)
            if fitting < limit:
                limit, reason = fitting, f"a pack may fill {memory / 1e6:,.1f} MB of memory here"
        if limit < planned:
            self.notes[trial.kind] = f"packs of at most {limit} trials instead of up to {planned}: {reason}"
        return limit

    def _measured(self, trial: Trial, memory: float) -> int:
        try:
            workload = registry.resolve(trial.workload, trial.workload_args)
            data = datasets.load(workload, self._data_folder, self._device)
            return fitting_members(workload, data, trial.batch_size, memory)
        except RAISED:
            return 1  # each trial reports the error in its journal


def most_members(workload: Workload, *, on_gpu: bool) -> int:
    """Return how many members are fastest in a pack if there is memory for them; 1 if they do not stack."""
    found = stacked_model.architecture(workload)
    if found.unstackable is not None:
        return 1
    if on_gpu:
        return GPU_MEMBERS
    if found.convolutional:
        return 1
    return max(1, min(CPU_MEMBERS, int(CPU_BYTES / found.parameter_bytes)))


def fitting_members(workload: Workload, data: Data, batch_size: int, memory: float) -> int:
    """Return how many members fit into ``memory`` bytes, at least 1, from one member's use for a batch."""
    model = stacked_model.sample_model(workload).to(data.train_inputs.device)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    settings = torch_settings.kept(workload, workload.load)
    with (
        torch_settings.random_kept(),
        torch_settings.in_force(settings),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        inputs = data.train_inputs[:batch_size]
        outputs = model(workload.prepare(inputs, None) if workload.prepare else inputs)
        workload.loss(outputs, data.train_targets[:batch_size])
    member = TENSORS * parameter_bytes(workload) + 2 * kept
    return max(1, int(memory / member))


def parameter_bytes(workload: Workload) -> int:
    """Return the bytes of a model's parameters."""
    return stacked_model.architecture(workload).parameter_bytes


def available_memory(device: torch.device, *, cpus: float, gpus: float) -> float:
    """Return the bytes of memory that a process with its share of the machine may use for a pack.

    Args:
        device: The device on which the process trains.
        cpus: CPU cores of the process; it may use the same share of the free memory.
        gpus: The process's share of a GPU.
    """
    if device.type == "cuda":
        return SHARE * torch.cuda.mem_get_info(device)[1] * gpu_share(gpus)
    return SHARE * process_limits.free_memory() * min(1.0, cpus / process_limits.cpu_count())


def unpackable_reason(trial: Trial) -> str | None:
    """Return why trials of a kind do not train together; None if they do.

    Raises:
        WorkloadError: The trial's workload cannot be built.
    """
    return packs.unpackable_optimizer(trial) or _unstackable_workload(trial)


def unpackable_reasons(trials: Iterable[Trial]) -> dict[str, str]:
    """Return the workloads and optimizers among ``trials`` that do not pack, and why."""
    found: dict[str, str] = {}
    for members in packs.group_packable(trials):
        trial = members[0]
        for name, against in (
            (trial.optimizer, packs.unpackable_optimizer),
            (trial.workload, _unstackable_workload),
        ):
            if name not in found:
                try:
                    reason = against(trial)
                except RAISED as error:
                    reason = " ".join(str(error).split()) or describe_error(error)
                if reason is not None:
                    found[name] = reason
    return found


def _unstackable_workload(trial: Trial) -> str | None:
    return stacked_model.unstackable_reason(registry.resolve(trial.workload, trial.workload_args))


def _worthwhile(trial: Trial, size: int | None, *, on_gpu: bool) -> int:
    if size == 1:
        return 1
    try:
        if unpackable_reason(trial) is not None:
            return 1
        workload = registry.resolve(trial.workload, trial.workload_args)
        return size or most_members(workload, on_gpu=on_gpu)
    except RAISED:
        return 1  # each trial reports the error in its journal
