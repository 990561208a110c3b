"""How many trials a pack may have, on the device and in the memory at hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from study.config.trial import Trial
from study.training import pack_limits, packs, process_limits, stacked_model
from study.training.packs import Limit
from study.workloads import registry
from study.workloads.base import Data, Workload

CPU_MEMBERS = 256
"""On a CPU nothing gets faster beyond; ``tests/benchmarks/packs.py`` shows it."""
CPU_BYTES = 10e6
"""Of parameters, what a core's cache may hold. Beyond, packs are slower than single trials: four members of
7 MB took 1.2 times as long as one after the other."""
GPU_MEMBERS = 1024

TENSORS = 10
"""Tensors as large as the parameters while a step is taken: they, the gradient, up to three of the
optimizer's state, what it computes with, and the copy that a checkpoint makes."""
SHARE = 0.5
"""Of the memory that is available, what a pack may fill."""


def most_members(workload: Workload, *, on_gpu: bool) -> int:
    """Return how many members are worth having in a pack, were there memory; 1 if they do not stack."""
    if stacked_model.unstackable_reason(workload) is not None:
        return 1
    if on_gpu:
        return GPU_MEMBERS
    return max(1, min(CPU_MEMBERS, int(CPU_BYTES / parameter_bytes(workload))))


def fitting_members(workload: Workload, data: Data, batch_size: int, memory: float) -> int:
    """Return how many members fit into ``memory`` bytes, at least 1: measured on one, by a batch."""
    model = stacked_model.sample_model(workload).to(data.train_inputs.device)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(data.train_inputs[:batch_size])
        workload.loss(outputs, data.train_targets[:batch_size])
    member = TENSORS * sum(parameter.nbytes for parameter in model.parameters()) + 2 * kept
    return max(1, int(memory / member))


def parameter_bytes(workload: Workload) -> int:
    """Return the bytes of a model's parameters."""
    return sum(parameter.nbytes for parameter in stacked_model.sample_model(workload).parameters())


def available_memory(device: torch.device, *, cpus: float, gpus: float) -> float:
    """Return the bytes that a process with its share of the machine may count on for a pack.

    Args:
        device: where it trains.
        cpus: cores that it was given; it counts on as large a part of the free memory.
        gpus: what it was given of a GPU.
    """
    if device.type == "cuda":
        return SHARE * torch.cuda.mem_get_info(device)[1] * min(1.0, gpus or 1.0)
    return SHARE * process_limits.free_memory() * min(1.0, cpus / process_limits.cpu_count())


def unpackable_reason(trial: Trial) -> str | None:
    """Say why trials of a kind do not train together; ``None`` if they do.

    Raises:
        WorkloadError: the trial's workload cannot be had.
    """
    return packs.unpackable_reason(trial) or _stacks(trial)


def unpackable_reasons(trials: Iterable[Trial]) -> dict[str, str]:
    """Return the workloads and optimizers among ``trials`` that do not pack, and why."""
    found: dict[str, str] = {}
    for members in packs.group_packable(trials):
        trial = members[0]
        for name, against in ((trial.optimizer, packs.unpackable_reason), (trial.workload, _stacks)):
            if name not in found:
                try:
                    reason = against(trial)
                except Exception as error:
                    reason = " ".join(str(error).split())
                if reason is not None:
                    found[name] = reason
    return found


def planned_limit(size: int | None, *, on_gpu: bool) -> Limit:
    """Return how many trials of a kind are worth having in one pack, were there memory.

    Args:
        size: the study's ``pack``: what was asked for at most, or ``None``.
        on_gpu: whether they will train on a GPU.
    """
    known: dict[str, int] = {}

    def limit(trial: Trial) -> int:
        name = trial.kind
        if name not in known:
            known[name] = _worthwhile(trial, size, on_gpu=on_gpu)
        return known[name]

    return limit


def _stacks(trial: Trial) -> str | None:
    return stacked_model.unstackable_reason(registry.resolve(trial.workload, trial.workload_args))


def _worthwhile(trial: Trial, size: int | None, *, on_gpu: bool) -> int:
    if size == 1:
        return 1
    try:
        if unpackable_reason(trial) is not None:
            return 1
        workload = registry.resolve(trial.workload, trial.workload_args)
        return size or pack_limits.most_members(workload, on_gpu=on_gpu)
    except Exception:
        return 1  # each trial says in its journal what is wrong
