"""Trains compatible trials at once: a pack, stacked along a member axis. Needs torch and ``hypergrad`` only.

A packed trial has the same curve as alone in ``trainer.Training``, up to the order in which sums are rounded:
its weights, the order of its data, augmentation, dropout, the statistics of batch norm and its optimizer's
state are its own, drawn from its own seed. Members of one seed get the same batches, and so stay next to each
other.

The same pack gives the same numbers on the same machine with the same number of threads. In another pack the
last digits differ.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypergrad.stacked import Stacked
from study.config.trial import Trial
from study.storage.records import EpochRecord
from study.training import precision, stacked_model
from study.training.capture import CapturedIteration, can_capture
from study.training.pack_member import Member
from study.training.streams import Streams
from study.training.trainer import EVALUATION_BATCH, Training
from study.workloads import torch_settings
from study.workloads.base import Data, Workload

LEAST_EVALUATION_BATCH = 100
"""Members share ``EVALUATION_BATCH`` rows, but no evaluation batch has fewer rows than this."""


class PackTraining:
    """Trials that train together. Between two epochs each can be saved, to resume in a pack or alone.

    Example::

        pack = PackTraining(trials, workload, data, device)
        for records in pack.epochs():
            for trial, record in records:
                print(trial.name, record.val_loss)

    Args:
        trials: Distinct trials, alike in all but α₀, β, seed and budget.
        workload: The trials' workload, for which ``stacked_model.unstackable_reason`` returns None.
        data: The workload's data, on ``device``.
        device: The device to train on.
        states: States to resume from, by key, from ``state_dict`` or ``Training.state_dict``: of all trials,
            after the same number of iterations. Default: start all trials.
        capture: Whether to capture the iteration of a whole batch as a CUDA graph on a GPU, and replay it.

    Raises:
        ValueError: The trials are not alike, or ``states`` does not fit them.
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
        self._capture = capture and can_capture(device)
        self._captured: CapturedIteration | None = None
        self._workload, self._data, self._precision = workload, data, trials[0].precision
        self._members = [Member(trial) for trial in sorted(trials, key=lambda trial: trial.seed)]
        trainings = [Training(member.trial, workload, data, device) for member in self._members]
        if states:
            for member, alone in zip(self._members, trainings, strict=True):
                state = states[member.trial.key]
                alone.load_state_dict(dict(state))
                member.epoch, member.iterations = state["epoch"], state["iterations"]
        self.settings = trainings[0].settings
        """Settings of torch in force while it trains; see ``study.workloads.torch_settings``."""
        self.layout: dict[str, str] = {}
        """Layouts in memory for the record of the machine; empty, as torch chooses them."""
        models, optimizers, random = zip(*(alone.parts() for alone in trainings), strict=True)
        if self._capture:
            for group in (optimizer.param_groups[0] for optimizer in optimizers):
                group.update({"capturable": True} if "capturable" in group else {})
        # Members of one seed draw the same numbers, now and later: one of them serves for all.
        self._random = {m.trial.seed: own for m, own in zip(self._members, random, strict=True)}
        self._names = [name for name, _ in models[0].named_parameters()]
        self._stored = set(models[0].state_dict())
        self._model = stacked_model.stack(models, data.train_inputs.ndim)
        with torch_settings.in_force(self.settings):
            params = [
                torch.stack([param.detach() for param in own]).requires_grad_()
                for own in zip(*(model.parameters() for model in models), strict=True)
            ]
            self._optimizer = Stacked(optimizers, params)
        self._losses = stacked_model.losses(workload, data.train_targets)
        self._validate = stacked_model.losses(workload, data.val_targets)
        self._streams = self._count_streams()
        self._drop({member.trial.key for member in self._members if member.done})

    @property
    def trials(self) -> list[Trial]:
        """The trials that have not ended."""
        return [member.trial for member in self._members]

    def epochs(self) -> Iterator[list[tuple[Trial, EpochRecord]]]:
        """Train on; yield the records of each epoch, of all trials that have not ended.

        A trial ends at its budget, or at its first ``diverged`` record. Each member counts an equal share of
        the seconds that an iteration takes. Nothing is read back from the device before an epoch, or the
        budget of a member, ends.
        """
        while self._members:
            with torch_settings.in_force(self.settings):
                records = self._train_epoch()
            ended = {trial.key for trial, record in records if record.diverged}
            self._drop(ended | {member.trial.key for member in self._members if member.done})
            yield records

    def stop(self, keys: Collection[str]) -> None:
        """Leave these trials out of all later epochs."""
        self._drop(set(keys))

    def state_dict(self, trial: Trial) -> dict[str, Any]:
        """Return a trial's state, on which the rest of its training depends, as ``Training.state_dict`` does.

        Raises:
            KeyError: The trial has ended, or is none of the pack's.
        """
        index = next((i for i, member in enumerate(self._members) if member.trial == trial), None)
        if index is None:
            raise KeyError(trial.key)
        member = self._members[index]
        tensors = dict(zip(self._names, self._optimizer.params, strict=True)) | self._model.buffers
        model = {
            name: value.detach()[index].clone() for name, value in tensors.items() if name in self._stored
        }
        return {
            "key": trial.key,
            "epoch": member.epoch,
            "iterations": member.iterations,
            "model": model,
            "optimizer": self._optimizer.state_dict(index),
            "random": self._random[trial.seed].state_dict(),
        }

    def _drop(self, keys: set[str]) -> None:
        kept = [index for index, member in enumerate(self._members) if member.trial.key not in keys]
        if len(kept) == len(self._members):
            return
        self._members = [self._members[index] for index in kept]
        self._captured = None  # it changes tensors that are now replaced
        if kept:
            self._optimizer.keep(kept)
            self._model.keep(torch.tensor(kept, device=self._optimizer.params[0].device))
            self._streams = self._count_streams()

    def _seeds(self) -> list[int]:
        """Return the seed of each stream, in the members' order."""
        return list(dict.fromkeys(member.trial.seed for member in self._members))

    def _count_streams(self) -> Streams:
        """Return how many members each stream has at present."""
        counts = Counter(member.trial.seed for member in self._members)
        return Streams(tuple(counts[seed] for seed in self._seeds()), self._data.train_inputs.device)

    def _train_epoch(self) -> list[tuple[Trial, EpochRecord]]:
        rows, size = len(self._data.train_targets), self._members[0].trial.batch_size
        device = self._data.train_inputs.device
        orders = {
            seed: torch.randperm(rows, generator=self._random[seed].order, device="cpu").to(device)
            for seed in self._seeds()
        }
        batches = self._members[0].trial.batches(rows)
        lengths = {member.trial.key: member.length(batches) for member in self._members}
        records = []
        done = 0
        for end in sorted(set(lengths.values())):
            order = torch.stack([orders[seed] for seed in self._seeds()])
            self._train(list(order.split(size, dim=1)[done:end]))
            done = end
            measured = zip(self._members, *(values.tolist() for values in self._evaluate()), strict=True)
            for member, val_loss, val_accuracy in measured:
                if lengths[member.trial.key] == end:
                    records.append((member.trial, member.close(val_loss, val_accuracy)))
            if end < max(lengths.values()):
                self._drop({key for key, length in lengths.items() if length == end})
        return records

    def _train(self, batches: list[Tensor]) -> None:
        """Run an iteration for each of ``batches``, row numbers of shape (streams, batch)."""
        self._model.train(True)
        drawn: Iterator[list[Tensor]] = map(self._drawn, batches)
        if self._capture and self._captured is None and batches:
            first = next(drawn)
            drawn = itertools.chain([first], drawn)
            moved = [*self._optimizer.tensors(), *self._model.buffers.values()]
            self._captured = CapturedIteration(self._iterate, first, moved)
        learned = self._members[0].trial.lop is not None
        started = time.perf_counter()
        losses: list[Tensor] = []
        alphas: list[Tensor] = []
        hypergradients: list[Tensor] = []
        for batch in drawn:
            captured = self._captured is not None and self._captured.takes(batch)
            losses.append(self._captured(batch) if self._captured and captured else self._iterate(*batch))
            if learned:
                alphas.append(self._optimizer.alpha.clone())
                hypergradients.append(self._optimizer.hypergradient.clone())
        curves = [torch.stack(values).cpu().numpy() for values in (losses, alphas, hypergradients) if values]
        seconds = (time.perf_counter() - started) / len(self._members)
        for index, member in enumerate(self._members):
            member.curves.append(tuple(np.ascontiguousarray(values[..., index]) for values in curves))
            member.seconds += seconds

    def _drawn(self, chosen: Tensor) -> list[Tensor]:
        """Return a batch as ``_iterate`` takes it, with all random numbers of training already drawn."""
        if self._workload.prepare is None and not self._model.draws:
            return [chosen]
        drawn = []
        for seed, rows in zip(self._seeds(), chosen, strict=True):
            random = self._random[seed]
            with random.in_use():  # as the trial does alone, and in the same order
                inputs = self._data.train_inputs.index_select(0, rows)
                if self._workload.prepare is not None:
                    inputs = self._workload.prepare(inputs, random.augmentation)
                with precision.autocast(self._precision, inputs.device):
                    masks = self._model.masks(inputs)
                drawn.append([inputs, *masks])
        return [chosen, *(torch.stack(parts) for parts in zip(*drawn, strict=True))]

    def _iterate(self, chosen: Tensor, inputs: Tensor | None = None, *masks: Tensor) -> Tensor:
        # This object holds all tensors that outlive the call: a captured iteration reads them again later.
        params = self._optimizer.params
        if inputs is None:
            inputs = self._data.train_inputs.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
        targets = self._streams.repeat(self._data.train_targets[chosen])
        with precision.autocast(self._precision, inputs.device):
            outputs = self._model(params, inputs, self._streams, masks)
        losses = self._losses(precision.for_loss(outputs), targets)
        self._optimizer.step(torch.autograd.grad(losses.sum(), params))
        return losses.detach()

    @torch.no_grad()
    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Return every member's mean loss and accuracy over the validation data; see ``trainer.evaluate``."""
        data, members, prepare = self._data, len(self._members), self._workload.prepare
        self._model.train(False)
        together = Streams((members,), data.val_inputs.device)
        size = max(LEAST_EVALUATION_BATCH, EVALUATION_BATCH // members)
        loss = torch.zeros(members, dtype=torch.float64, device=data.val_inputs.device)
        correct = torch.zeros_like(loss)
        for inputs, targets in zip(data.val_inputs.split(size), data.val_targets.split(size), strict=True):
            prepared = prepare(inputs, None) if prepare else inputs
            with precision.autocast(self._precision, inputs.device):
                outputs = self._model(self._optimizer.params, prepared.unsqueeze(0), together)
            outputs = precision.for_loss(outputs)
            expected = targets.expand(members, *targets.shape)
            loss += self._validate(outputs, expected) * len(targets)
            if data.has_classes:
                correct += (outputs.contiguous().argmax(-1) == expected).flatten(1).sum(1)
        accuracy = (
            correct / data.val_targets.numel() if data.has_classes else torch.full_like(correct, torch.nan)
        )
        return (loss / len(data.val_targets)).cpu(), accuracy.cpu()


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
            raise ValueError(
                f"no checkpoint of trial {trial.key} among those that the pack is to resume from"
            )
    iterations = {states[trial.key]["iterations"] for trial in trials}
    if len(iterations) > 1:
        raise ValueError(f"a pack resumes from equally many iterations, got {sorted(iterations)}")
