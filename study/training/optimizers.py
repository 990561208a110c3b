"""Builds the optimizer of a trial: one of ``hypergrad``'s, or any class by its dotted path.

A class by its dotted path is created with ``lr=α₀`` and the trial's arguments; with the study's
``weight_decay`` too if its signature has one and the arguments do not give another. The class decides what
weight decay means: ``torch.optim.AdamW`` decouples it, while ``hypergrad``'s optimizers couple it.

Its α curve comes from its first parameter group: ``lr``, times ``d`` if there is one (the distance that
Prodigy and D-Adaptation estimate), or ``scheduled_lr`` (schedule-free optimizers that warm up by themselves).
Its h is NaN. An optimizer that has ``train()`` and ``eval()``, as the schedule-free ones do, is switched
together with the model: validation uses its averaged weights. Batch norm's statistics are those of the
training iterations, not of the averaged weights.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import metadata
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

import hypergrad
from study.config import plugins, schedules
from study.config.messages import describe_error
from study.config.optimizer_name import is_dotted
from study.config.trial import Trial

__all__ = ["OptimizerError", "build", "check", "evaluating", "scheduler", "step", "training", "versions"]


# The defaults of version 0.1: h of the last step alone, and steps of α's full length.
ONE_STEP = {"trace_decay": 0.0, "max_relative_step": math.inf, "first_relative_step": (0.0, math.inf)}


class OptimizerError(ValueError):
    """An optimizer cannot be built from its path and arguments; the message is one line for their author."""


def build(trial: Trial, params: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Return the trial's optimizer for ``params``, with α at α₀.

    Raises:
        OptimizerError: The class cannot be imported, is no optimizer, or refuses the arguments.
    """
    options = dict(trial.optimizer_args)
    if is_dotted(trial.optimizer):
        return _of_class(trial, params, options)
    if trial.lop is not None:
        old = _rule_of_version_0_1(options)
        if old == "cosine":
            options = ONE_STEP | options
        options |= {
            "rule": old or trial.rule,
            "hypergrad_lr": trial.beta,
            "granularity": trial.granularity,
        }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hypergrad_lr=")  # a study tries unusual β on purpose
        return hypergrad.create(
            trial.optimizer, params, lr=trial.alpha0, weight_decay=trial.weight_decay, **options
        )


def _rule_of_version_0_1(options: dict[str, Any]) -> str | None:
    """Remove the options by which version 0.1 gave the rule from ``options``; return the rule, or None."""
    multiplicative, cosine = options.pop("multiplicative", False), options.pop("normalize", False)
    if multiplicative:
        return "cosine" if cosine else "multiplicative"
    return "additive-cosine" if cosine else None


def check(trial: Trial) -> None:
    """Check before any training that ``build`` works, as far as possible without a model.

    Raises:
        OptimizerError: As for ``build``; or the class's ``step`` requires a closure.
    """
    if not is_dotted(trial.optimizer):
        return
    optimizer = build(trial, [torch.nn.Parameter(torch.zeros(2, 2))])
    try:
        inspect.signature(optimizer.step).bind()
    except TypeError:
        raise OptimizerError(
            f"optimizer {trial.optimizer}: its step needs a closure, which a study does not give"
        ) from None


def scheduler(trial: Trial, optimizer: torch.optim.Optimizer, epoch: int) -> LambdaLR | None:
    """Return the scheduler that moves α after every iteration; None if the trial has no schedule.

    Args:
        trial: The trial.
        optimizer: The trial's optimizer; its α becomes that of the schedule's first iteration. A learned α is
            multiplied, and the optimizer keeps learning it.
        epoch: Number of iterations in an epoch.
    """
    if trial.schedule is None:
        return None
    unit = 1 if trial.epochs is None else epoch
    total = (trial.epochs or trial.iterations or 0) * unit
    multiplier = partial(schedules.multiplier, trial.schedule, total=total, unit=unit)
    scheduled = optimizer.schedule if _learns(optimizer) else optimizer
    return LambdaLR(scheduled, lambda done: multiplier(done=done))


@runtime_checkable
class _Switched(Protocol):
    def train(self) -> object: ...

    def eval(self) -> object: ...


def training(optimizer: torch.optim.Optimizer) -> None:
    """Switch an optimizer to training, if it has such a mode."""
    if isinstance(optimizer, _Switched):
        optimizer.train()


def evaluating(optimizer: torch.optim.Optimizer) -> None:
    """Switch an optimizer to evaluation, if it has such a mode; checkpoints are written in it, too."""
    if isinstance(optimizer, _Switched):
        optimizer.eval()


def step(optimizer: torch.optim.Optimizer) -> tuple[Tensor | float, Tensor | None]:
    """Take a step; return its α and, if α is learned, the h that it was learned from.

    Both belong to the first parameter group. α is the one that the step used: a learned one times the
    schedule's factor. Nothing is read back from the device.
    """
    group = optimizer.param_groups[0]
    if _learns(optimizer):
        optimizer.step()
        return group["lr"] * group.get("lr_factor", 1), optimizer.hypergradients[0]
    alpha = group["lr"] * group["d"] if "d" in group else group["lr"]
    alpha = alpha.clone() if isinstance(alpha, Tensor) else float(alpha)
    optimizer.step()
    return group.get("scheduled_lr", alpha), None


_Ours = hypergrad.SGD | hypergrad.Adam | hypergrad.Muon


def _learns(optimizer: torch.optim.Optimizer) -> TypeGuard[_Ours]:
    return isinstance(optimizer, _Ours) and optimizer.param_groups[0]["lop"] is not None


def versions(trial: Trial) -> dict[str, str]:
    """Return the version of the optimizer's package by its name; empty for ``torch`` and ``hypergrad``."""
    package = trial.optimizer.partition(".")[0]
    if not is_dotted(trial.optimizer) or package in ("torch", "hypergrad"):
        return {}
    try:
        return {package: metadata.version(package)}
    except metadata.PackageNotFoundError:
        return {}


def _of_class(
    trial: Trial, params: Iterable[torch.nn.Parameter], options: dict[str, Any]
) -> torch.optim.Optimizer:
    where = f"optimizer {trial.optimizer}"
    with plugins.current_folder():
        made = _class(trial.optimizer)
        takes = inspect.signature(made)
        options = {"lr": trial.alpha0} | options
        if "weight_decay" in takes.parameters:
            options = {"weight_decay": trial.weight_decay} | options
        try:
            takes.bind(params, **options)
        except TypeError as error:
            names = ", ".join(list(takes.parameters)[1:])
            raise OptimizerError(f"{where}: {error}; its arguments are {names}") from None
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                _unlogged(),
            ):  # Prodigy prints, DoG warns of its lr
                optimizer = made(params, **options)
        except Exception as error:
            raise OptimizerError(f"{where}: {describe_error(error)}") from error
    return optimizer


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _class(path: str) -> type[torch.optim.Optimizer]:
    module, _, name = path.rpartition(".")
    trusted = module in ("torch.optim", "hypergrad")
    try:
        found = plugins.find(module, name, _is_optimizer, "class", trusted=trusted)
    except plugins.PluginImportError as error:
        raise OptimizerError(f"optimizer {path}: {error}") from error
    if not _is_optimizer(found):
        raise OptimizerError(f"optimizer {path}: not a class derived from torch.optim.Optimizer")
    return found  # type: ignore[no-any-return]


def _is_optimizer(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
