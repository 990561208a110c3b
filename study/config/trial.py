"""A trial, one training run of a study, and its key, which never changes. Standard library only."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from typing import Any

from study.config import schedules
from study.config.optimizer_name import ADDITIVE, OPTIMIZERS, RULES, OptimizerName, is_dotted

GRANULARITIES = ("group", "tensor", "released")

FLOAT32, TF32, BF16 = PRECISIONS = ("float32", "tf32", "bf16")
"""How a trial computes; ``study.training.precision`` says what each means."""

# Part of every key. Raise it only if equal settings come to mean another computation.
KEY_VERSION = 1


@dataclass(frozen=True)
class Trial:
    """Everything that defines one training run; equal trials have equal keys.

    ::

        >>> trial = Trial("digits-logreg", "adam-adam", alpha0=0.001, beta=1e-5, seed=0, epochs=20)
        >>> trial.name, trial.key
        ('adam-adam α₀=0.001 β=1e-05 seed=0', '690c1e9716c21b83')

    Settings are normalised: an integer α₀ becomes a float, and a plain optimizer gets ``beta`` ``None``,
    ``granularity`` ``"group"`` and ``rule`` ``"additive"``, which it does not use.

    Raises:
        ValueError: The optimizer, rule, granularity or precision is unknown, a learned optimizer has no β, a
            number is out of range, or not exactly one of ``epochs`` and ``iterations`` is given.
    """

    workload: str
    """A name of ``study.config.catalogue.CATALOGUE``, or ``"module:function"``."""
    optimizer: str
    """A name of ``optimizer_name.OPTIMIZERS``, or the dotted path of a ``torch.optim.Optimizer``."""
    alpha0: float
    beta: float | None
    seed: int
    epochs: int | None = None
    iterations: int | None = None
    batch_size: int = 128
    weight_decay: float = 1e-4
    granularity: str = "group"
    workload_args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the workload's function; JSON scalars."""
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)
    """Further keyword arguments of ``hypergrad.create``, or of the class at the dotted path: JSON scalars and
    tuples of them. Whole numbers are floats for ``hypergrad.create`` and integers for a class."""
    schedule: Mapping[str, Any] | None = None
    """Multiplies a fixed or learned α over the iterations; see ``study.config.schedules``."""
    drop_last: bool = False
    """Whether to leave out the last batch of an epoch if it is smaller than the others."""
    rule: str = ADDITIVE
    """How the lop moves α, a name of ``optimizer_name.RULES``."""
    precision: str = FLOAT32
    """How the model's products and convolutions are computed, one of ``PRECISIONS``."""
    label: str = field(default="", compare=False)
    """The optimizer's name in tables and figures, not part of the trial's identity. Default: its name (the
    last part of a dotted path), its rule unless that is additive, and its schedule."""

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS and not is_dotted(self.optimizer):
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, or a dotted path; got {self.optimizer!r}"
            )
        if self.granularity not in GRANULARITIES:
            raise ValueError(
                f"granularity must be one of {', '.join(GRANULARITIES)}; got {self.granularity!r}"
            )
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("exactly one of epochs and iterations must be given")
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}; got {self.rule!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        if self.lop is None:
            self._set("beta", None)
            self._set("granularity", "group")
            self._set("rule", ADDITIVE)
        elif self.beta is None:
            raise ValueError(f"{self.optimizer} learns its learning rate and needs a beta")
        for name in ("alpha0", "beta", "weight_decay"):
            if (value := getattr(self, name)) is not None:
                if not (math.isfinite(value) and value >= 0):
                    raise ValueError(f"{name} must be a finite number, 0 or more; got {value!r}")
                self._set(name, float(value) + 0.0)  # + 0.0 turns −0.0 into 0.0
        self._set("workload_args", dict(self.workload_args))
        whole = is_dotted(self.optimizer)
        options = {name: _normalised(value, whole) for name, value in self.optimizer_args.items()}
        self._set("optimizer_args", options)
        if self.schedule is not None:
            self._set("schedule", schedules.normalised(self.schedule))
        if not self.label:
            self._set("label", default_label(self.optimizer, self.schedule, self.rule))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def op(self) -> str:
        """The model optimizer; for a dotted path, the whole path."""
        return OptimizerName.parse(self.optimizer).op

    @property
    def lop(self) -> str | None:
        """The optimizer of the learning rate; ``None`` if α stays α₀."""
        return OptimizerName.parse(self.optimizer).lop

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of the settings' SHA-256; the same in every process and version."""
        return _key(*self._around_seed(), self.seed)

    def _around_seed(self) -> tuple[bytes, bytes]:
        """Return the canonical JSON that makes the key, before the seed and after it."""
        named = {name: b"%s:%s" % (_json(name), _json(value)) for name, value in self.settings().items()}
        before = [named[name] for name in sorted(named) if name < "seed"]
        after = [named[name] for name in sorted(named) if name > "seed"]
        return b"[%d,{%s" % (KEY_VERSION, b",".join([*before, b'"seed":'])), b",".join([b"", *after]) + b"}]"

    def seeded(self, seeds: Iterable[int]) -> list[Trial]:
        """Return this trial on each of ``seeds``. It is fast, as a study may have 100,000 trials."""
        before, after = self._around_seed()
        shared = self.__dict__ | {"kind": self.kind}
        trials = []
        for seed in seeds:
            trial = object.__new__(Trial)
            trial.__dict__.update(shared)
            trial.__dict__.update(seed=seed, key=_key(before, after, seed))
            trials.append(trial)
        return trials

    @cached_property
    def kind(self) -> str:
        """The settings that trials of one pack share, as text: all but α₀, β, seed and budget."""
        settings = {name: value for name, value in self.settings().items() if name not in _OWN}
        return sys.intern(json.dumps(settings, sort_keys=True))

    @property
    def name(self) -> str:
        """A name for people: ``adam-adam α₀=0.001 β=1e-07 seed=0``; without β for a plain optimizer."""
        beta = "" if self.beta is None else f" β={_short(self.beta)}"
        return f"{self.label} α₀={_short(self.alpha0)}{beta} seed={self.seed}"

    def batches(self, rows: int) -> int:
        """Return the number of batches in an epoch over ``rows`` training examples, at least one."""
        if self.drop_last:
            return max(1, rows // self.batch_size)
        return -(-rows // self.batch_size)

    def settings(self) -> dict[str, Any]:
        """Return the settings that identify the trial, as JSON values; ``from_settings`` is the inverse.

        A field that was added later is left out at its default, so that earlier trials keep their keys.
        """
        settings = {name: getattr(self, name) for name in _IDENTITY}
        settings["workload_args"] = dict(self.workload_args)
        settings["optimizer_args"] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.optimizer_args.items()
        }
        if self.schedule is None:
            del settings["schedule"]
        else:
            settings["schedule"] = dict(self.schedule)
        if not self.drop_last:
            del settings["drop_last"]
        if self.rule == ADDITIVE:
            del settings["rule"]
        if self.precision == FLOAT32:
            del settings["precision"]
        return settings

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Trial:
        """Return the trial with these ``settings``.

        Raises:
            TypeError: Fields are unknown or missing.
            ValueError: As for the constructor.
        """
        return cls(**settings)


_IDENTITY = tuple(f.name for f in fields(Trial) if f.compare)
_OWN = ("alpha0", "beta", "seed", "epochs", "iterations")
"""Settings in which the trials of one pack may differ."""


def default_label(optimizer: str, schedule: Mapping[str, Any] | None, rule: str = ADDITIVE) -> str:
    """Return ``adam``, ``adam-sgd``, ``adam-sgd cosine`` (cosine is its rule), ``AdamW``, ``AdamW cosine``.

    A learned optimizer with a schedule is ``adam-sgd cosine along step every=10``.
    """
    name = optimizer.rpartition(".")[2]
    if rule != ADDITIVE:
        name = f"{name} {rule}"
    if schedule is None:
        return name
    along = " along" if OptimizerName.parse(optimizer).learned else ""
    return f"{name}{along} {schedules.text(schedule)}"


def _normalised(value: Any, whole: bool) -> Any:
    """Return an option, normalised so that 1 and 1.0, or a list and a tuple, are the same.

    ``hypergrad``'s options are floats. Some classes count with their arguments: for those 1.0 becomes 1.
    """
    if isinstance(value, list | tuple):
        return tuple(_normalised(v, whole) for v in value)
    if whole:
        return int(value) if isinstance(value, float) and value.is_integer() else value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _key(before: bytes, after: bytes, seed: int) -> str:
    text = str(seed).encode() if type(seed) is int else _json(seed)
    return sha256(before + text + after).hexdigest()[:16]


def _json(value: object) -> bytes:
    """Return a setting as the canonical JSON that makes the key."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _short(value: float) -> str:
    return repr(value).removesuffix(".0")
