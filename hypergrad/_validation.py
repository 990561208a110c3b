"""Validation of the optimizers' options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad import _rules, rates
from hypergrad._numbers import as_float, as_floats
from hypergrad._rules import RULES
from hypergrad._state import GRANULARITIES
from hypergrad._tensor_views import is_dense
from hypergrad.rates import are_fractions, is_fraction, is_number

OPS = ("sgd", "sgdn", "adam", "adamw", "muon")
LOPS = (None, *rates.RATE_RULES)

_PAIRS_OF_RULES = tuple(name for name, own in rates.OPTIONS.items() if isinstance(own.default, tuple))
_NUMBERS_OF_RULES = tuple(name for name in rates.OPTIONS if name not in _PAIRS_OF_RULES)
STEP_NUMBERS = ("trace_decay", "max_relative_step")
NUMBERS = ("lr", "hypergrad_lr", "weight_decay", "momentum", "eps", *STEP_NUMBERS, *_NUMBERS_OF_RULES)
PAIRS = ("betas", "first_relative_step", "lr_bounds", *_PAIRS_OF_RULES)


def with_floats(options: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``options`` with Python's own numbers. Keep other values, for ``check`` to refuse.

    An ``lr`` that is a tensor stays one: it may hold one α per parameter.
    """
    plain = dict(options)
    for name, convert in [*((name, as_float) for name in NUMBERS), *((name, as_floats) for name in PAIRS)]:
        value = options.get(name)
        if value is None or (name == "lr" and isinstance(value, Tensor)):
            continue
        try:
            plain[name] = convert(name, value)
        except ValueError:
            continue
    return plain


def check(options: dict[str, Any]) -> None:
    """Check the options of a parameter group.

    Args:
        options: All options, by name, with Python's own numbers.

    Raises:
        ValueError: An option is unknown or out of range.
    """
    for key, known in (("lop", LOPS), ("rule", tuple(RULES)), ("granularity", GRANULARITIES)):
        if options[key] not in known:
            raise ValueError(f"{key} must be one of {', '.join(map(repr, known))}, got {options[key]!r}")
    lr = options["lr"]
    if isinstance(lr, Tensor):
        if not bool(torch.all((lr >= 0) & torch.isfinite(lr))):
            raise ValueError(f"lr must be finite and at least 0, got {lr}")
        if lr.numel() != 1 and (options["lop"] is None or options["granularity"] != "tensor"):
            raise ValueError(
                f"lr must have one element unless granularity is 'tensor', got shape {tuple(lr.shape)}"
            )
    for key in ("lr", "hypergrad_lr", "weight_decay", "momentum", "eps"):
        value = options.get(key, 0)
        if key == "hypergrad_lr" and value is None:
            continue
        if not ((is_number(value) and 0 <= value < math.inf) or (value is lr and isinstance(lr, Tensor))):
            raise ValueError(f"{key} must be a finite number, at least 0, got {value!r}")
    if "betas" in options and not are_fractions(options["betas"]):
        raise ValueError(f"betas must be two numbers, each at least 0 and below 1, got {options['betas']!r}")
    rates.check_options(options)
    if options.get("nesterov") and not options["momentum"]:
        raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9")
    if not isinstance(options["decoupled_weight_decay"], bool):
        raise ValueError(
            f"decoupled_weight_decay must be True or False, got {options['decoupled_weight_decay']!r}"
        )
    _check_step(options)
    if options["lop"] is not None:
        _check_range(options)
    if options["differentiable"]:
        raise ValueError("differentiable=True is not supported: a step learns α in place, from h alone")
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other: give one")


def _check_step(options: dict[str, Any]) -> None:
    """Check the trace and the relative limits of a step; ``None`` means the rule's default."""
    decay, largest, first = (options[name] for name in _rules.OFF)
    if not (decay is None or is_fraction(decay)):
        raise ValueError(f"trace_decay must be at least 0 and below 1, got {decay!r}")
    if not (largest is None or (is_number(largest) and largest > 0)):
        raise ValueError(f"max_relative_step must be a number above 0, got {largest!r}")
    if not (first is None or _is_range(first)):
        raise ValueError(f"first_relative_step must be two numbers, the smaller first, got {first!r}")
    given = [name for name, off in _rules.OFF.items() if options[name] not in (None, off)]
    if options["granularity"] == "released" and options["lop"] is not None and given:
        raise ValueError(f"granularity 'released' takes no {given[0]}: give granularity 'group' or 'tensor'")


def _is_range(value: Any) -> bool:
    """Return whether ``value`` is two numbers, at least 0, the smaller first, the larger above 0."""
    if not (isinstance(value, (list, tuple)) and len(value) == 2 and all(map(is_number, value))):
        return False
    return bool(0 <= value[0] <= value[1] and value[1] > 0)


def _check_range(options: dict[str, Any]) -> None:
    """Check the bounds of α, and that α₀ lies in the range of the rule and the bounds."""
    lr, bounds = options["lr"], options["lr_bounds"]
    lr = lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64, device="cpu")
    if RULES[options["rule"]].multiplicative and not bool((lr > 0).all()):
        raise ValueError(f"rule={options['rule']!r} needs an lr above 0, got {options['lr']!r}")
    if bounds is None:
        return
    if not (isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(is_number, bounds))):
        raise ValueError(f"lr_bounds must be None or two numbers, got {bounds!r}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"lr_bounds must be two numbers, the smaller first, got {bounds!r}")
    if not bool(((lr >= low) & (lr <= high)).all()):
        raise ValueError(f"lr must lie within lr_bounds, got {options['lr']!r} and {bounds!r}")


def check_params(group: dict[str, Any]) -> None:
    """Check that the group's options suit its parameters.

    Raises:
        ValueError: ``fused=True`` does not take the parameters.
    """
    params: list[Tensor] = group["params"]
    if group["fused"] and params:
        kinds = {(param.dtype, param.device) for param in params}
        dtype, device = params[0].dtype.to_real(), params[0].device.type
        if len(kinds) > 1 or not dtype.is_floating_point:
            raise ValueError(
                "fused=True needs floating-point parameters of one dtype on one device in each group, got "
                + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            )
        if not all(map(is_dense, params)):
            raise ValueError("fused=True needs parameters without gaps in memory: give fused=False")
        if group["lop"] is not None and dtype == torch.float64 and device != "cpu":
            # The kernel reads a tensor learning rate as float32.
            raise ValueError("fused=True cannot learn α for float64 parameters on a GPU: give fused=False")
