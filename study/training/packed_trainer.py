"""Trains compatible trials at once: a pack, stacked along a member axis. Needs torch and ``hypergrad`` only.

A packed trial's curve is the one that :class:`.trainer.Training` gives it alone, up to the order in
which sums are rounded: its weights, the order of its data and its optimizer's state are its own, drawn from
its own seed. Members of one seed are given the same batches, and are kept next to each other for that.

The same pack gives the same numbers on the same machine with the same number of threads. In another pack the
last digits differ.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergrad.stacked import Stacked
from study.config.trial import Trial
from study.storage.records import Array, EpochRecord
from study.training import stacked_model
from study.training.capture import CapturedIteration
from study.training.trainer import EVALUATION_BATCH, Training
from study.workloads.base import Data, Workload

LEAST_EVALUATION_BATCH = 100
"""Members share ``EVALUATION_BATCH`` rows, but no batch for evaluation has fewer than this."""


@dataclass(slots=True)
class _Member:
    """A trial under way, and what it measured so far in the epoch that it is in."""

    trial: Trial
    epoch: int = 0
    iterations: int = 0
    curves: list[tuple[Array, ...]] = field(default_factory=list)
    seconds: float = 0.0

    def length(self, batches: int) -> int:
        """Iterations of the next epoch, of ``batches`` if the budget lets it."""
        budget = self.trial.iterations
        return batches if budget is None else min(batches, budget - self.iterations)

    @property
    def done(self) -> bool:
        return self.epoch == self.trial.epochs or self.iterations == self.trial.iterations


class PackTraining:
    """Trials under way together. Between two epochs each can be saved, to go on in a pack or alone.

    Args:
        trials: distinct, and alike in all but α₀, β, seed and budget.
        workload: theirs; :func:`study.training.stacked_model.unstackable_reason` has nothing against it.
        data: the workload's data, on ``device``.
        device: where to train.
        states: by key, what to go on from, of :meth:`state_dict` or ``Training.state_dict``: for all trials,
            after equally many iterations, or for none.
        capture: on a GPU, run whole batches as a CUDA graph.

    Raises:
        ValueError: the trials are not alike, or a state is not as said above.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        workload: Workload,
        data: Data,
        device: torch.device,
        states: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        capture: bool = False,
    ) -> None:
        _check(trials, states)
        self._capture = capture and device.type == "cuda"
        self._captured: CapturedIteration | None = None
        self._workload, self._data = workload, data
        self._members = [_Member(trial) for trial in sorted(trials, key=lambda trial: trial.seed)]
        trainings = [Training(member.trial, workload, data, device) for member in self._members]
        if states:
            for member, alone in zip(self._members, trainings, strict=True):
                state = states[member.trial.key]
                alone.load_state_dict(dict(state))
                member.epoch, member.iterations = state["epoch"], state["iterations"]
        models, optimizers, streams = zip(*(alone.parts() for alone in trainings), strict=True)
        if self._capture:
            for group in (optimizer.param_groups[0] for optimizer in optimizers):
                group.update({"capturable": True} if "capturable" in group else {})
        # What members of one seed draw is the same, now and later: one of them can speak for all.
        self._random = {m.trial.seed: random for m, random in zip(self._members, streams, strict=True)}
        self._names = [name for name, _ in models[0].named_parameters()]
        self._forward = stacked_model.forward(models[0], data.train_inputs.ndim)
        params = [
            torch.stack([param.detach() for param in own]).requires_grad_()
            for own in zip(*(model.parameters() for model in models), strict=True)
        ]
        self._optimizer = Stacked(optimizers, params)
        self._losses = stacked_model.losses(workload, data.train_targets)
        self._validate = stacked_model.losses(workload, data.val_targets)
        self._drop({member.trial.key for member in self._members if member.done})

    @property
    def trials(self) -> list[Trial]:
        """Those still under way."""
        return [member.trial for member in self._members]

    def epochs(self) -> Iterator[list[tuple[Trial, EpochRecord]]]:
        """Train on; yield an epoch's records of all trials under way, until none is.

        A trial is under way up to its budget or the first of its records that is ``diverged``. Of the seconds
        that an iteration takes each member counts an equal share. Nothing is read back from the device before
        an epoch, or the budget of a member, ends.
        """
        while self._members:
            records = self._train_epoch()
            ended = {trial.key for trial, record in records if record.diverged}
            self._drop(ended | {member.trial.key for member in self._members if member.done})
            yield records

    def stop(self, keys: Collection[str]) -> None:
        """Leave these trials out of the epochs to come."""
        self._drop(set(keys))

    def state_dict(self, trial: Trial) -> dict[str, Any]:
        """Return all that the rest of a trial's training depends on, as ``Training.state_dict`` does.

        Raises:
            KeyError: the trial is not under way.
        """
        index = next((i for i, member in enumerate(self._members) if member.trial == trial), None)
        if index is None:
            raise KeyError(trial.key)
        member = self._members[index]
        params = zip(self._names, self._optimizer.params, strict=True)
        return {
            "key": trial.key,
            "epoch": member.epoch,
            "iterations": member.iterations,
            "model": {name: param.detach()[index].clone() for name, param in params},
            "optimizer": self._optimizer.state_dict(index),
            "random": self._random[trial.seed].state_dict(),
        }

    def _drop(self, keys: set[str]) -> None:
        kept = [index for index, member in enumerate(self._members) if member.trial.key not in keys]
        if len(kept) == len(self._members):
            return
        self._members = [self._members[index] for index in kept]
        self._captured = None
        if kept:
            self._optimizer.keep(kept)

    def _streams(self) -> dict[int, int]:
        """Seeds and how many members each has, in the members' order."""
        seeds = [member.trial.seed for member in self._members]
        return {seed: seeds.count(seed) for seed in dict.fromkeys(seeds)}

    def _train_epoch(self) -> list[tuple[Trial, EpochRecord]]:
        rows, size = len(self._data.train_targets), self._members[0].trial.batch_size
        device = self._data.train_inputs.device
        orders = {
            seed: torch.randperm(rows, generator=self._random[seed].order).to(device)
            for seed in self._streams()
        }
        lengths = {member.trial.key: member.length(-(-rows // size)) for member in self._members}
        records = []
        done = 0
        for end in sorted(set(lengths.values())):
            order = torch.stack([orders[seed] for seed in self._streams()])
            self._train(list(order.split(size, dim=1)[done:end]))
            done = end
            measured = zip(self._members, *(values.tolist() for values in self._evaluate()), strict=True)
            for member, val_loss, val_accuracy in measured:
                if lengths[member.trial.key] == end:
                    records.append((member.trial, _record(member, val_loss, val_accuracy)))
            if end < max(lengths.values()):
                self._drop({key for key, length in lengths.items() if length == end})
        return records

    def _train(self, batches: list[Tensor]) -> None:
        """Take an iteration for each of ``batches``, row numbers of shape (streams, batch)."""
        streams = list(self._streams().values())
        repeats = torch.tensor(streams).to(self._data.train_targets.device)
        iterate = partial(self._iterate, streams=streams, repeats=repeats)
        if self._capture and self._captured is None and batches:
            self._captured = CapturedIteration(iterate, batches[0], self._optimizer.tensors())
        learned = self._members[0].trial.lop is not None
        started = time.perf_counter()
        losses: list[Tensor] = []
        alphas: list[Tensor] = []
        hypergradients: list[Tensor] = []
        for chosen in batches:
            captured = self._captured is not None and self._captured.shape == chosen.shape
            losses.append(self._captured(chosen) if self._captured and captured else iterate(chosen))
            if learned:
                alphas.append(self._optimizer.alpha.clone())
                hypergradients.append(self._optimizer.hypergradient.clone())
        curves = [torch.stack(values).cpu().numpy() for values in (losses, alphas, hypergradients) if values]
        seconds = (time.perf_counter() - started) / len(self._members)
        for index, member in enumerate(self._members):
            member.curves.append(tuple(np.ascontiguousarray(values[..., index]) for values in curves))
            member.seconds += seconds

    def _iterate(self, chosen: Tensor, streams: list[int], repeats: Tensor) -> Tensor:
        params = self._optimizer.params
        inputs = self._data.train_inputs.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        targets = self._data.train_targets[chosen]
        targets = targets.repeat_interleave(repeats, dim=0, output_size=sum(streams))
        losses = self._losses(self._forward(params, inputs, streams), targets)
        self._optimizer.step(torch.autograd.grad(losses.sum(), params))
        return losses.detach()

    @torch.no_grad()
    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Return every member's mean loss and accuracy over the validation data."""
        data, members = self._data, len(self._members)
        size = max(LEAST_EVALUATION_BATCH, EVALUATION_BATCH // members)
        loss = torch.zeros(members, dtype=torch.float64, device=data.val_inputs.device)
        correct = torch.zeros_like(loss)
        for inputs, targets in zip(data.val_inputs.split(size), data.val_targets.split(size), strict=True):
            outputs = self._forward(self._optimizer.params, inputs.unsqueeze(0), [members])
            expected = targets.expand(members, *targets.shape)
            loss += self._validate(outputs, expected) * len(targets)
            correct += (outputs.contiguous().argmax(-1) == expected).flatten(1).sum(1)
        return (loss / len(data.val_targets)).cpu(), (correct / data.val_targets.numel()).cpu()


def _record(member: _Member, val_loss: float, val_accuracy: float) -> EpochRecord:
    """Close a member's epoch."""
    train_loss, *learned = (np.concatenate(values) for values in zip(*member.curves, strict=True))
    tensors = None
    if learned:
        alpha, h = learned
        if alpha.ndim > 1:
            tensors, alpha = alpha, alpha.mean(1)
        h = h.reshape(len(h), -1).sum(1)
    else:
        alpha = np.full(len(train_loss), member.trial.alpha0)
        h = np.full(len(train_loss), np.nan)
    unusable = ~(np.isfinite(train_loss) & np.isfinite(alpha))
    end = int(unusable.argmax()) + 1 if unusable.any() else len(train_loss)
    record = EpochRecord(
        epoch=member.epoch + 1,
        first_iteration=member.iterations + 1,
        alpha=alpha[:end],
        hypergradient=h[:end],
        train_loss=train_loss[:end],
        alpha_tensors=None if tensors is None else tensors[:end],
        val_loss=val_loss,
        val_accuracy=val_accuracy,
        seconds=member.seconds,
    )
    member.epoch, member.iterations = record.epoch, record.last_iteration
    member.curves, member.seconds = [], 0.0
    return record


def _check(trials: Sequence[Trial], states: Mapping[str, Mapping[str, Any]] | None) -> None:
    for trial in trials[1:]:
        if trial.kind != trials[0].kind:
            raise ValueError(
                f"trials {trials[0].key} and {trial.key} do not pack: more than α₀, β, seed and budget differ"
            )
    if len({trial.key for trial in trials}) < max(1, len(trials)):
        raise ValueError("a pack needs trials, and none of them twice")
    if not states:
        return
    for trial in trials:
        if trial.key not in states or states[trial.key]["key"] != trial.key:
            raise ValueError(f"no checkpoint of trial {trial.key} among those that the pack is to go on from")
    iterations = {states[trial.key]["iterations"] for trial in trials}
    if len(iterations) > 1:
        raise ValueError(f"a pack goes on from equally many iterations, got {sorted(iterations)}")
