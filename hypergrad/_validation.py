"""What the optimizers' options may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.functional import GRANULARITIES

OPS = ("sgd", "sgdn", "adam")
LOPS = (None, "sgd", "sgdn", "adam", "adagrad", "lion")


def check(options: dict[str, Any]) -> None:
    """Raise ValueError for an option of a group that is unknown or out of range."""
    for key, known in (("lop", LOPS), ("granularity", GRANULARITIES)):
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
        if not ((_is_number(value) and 0 <= value < math.inf) or (value is lr and isinstance(lr, Tensor))):
            raise ValueError(f"{key} must be a finite number, at least 0, got {value!r}")
    for key in ("betas", "lop_betas"):
        value = options.get(key, (0, 0))
        if key == "lop_betas" and value is None:
            continue
        if not (isinstance(value, Sequence) and len(value) == 2 and all(map(_is_fraction, value))):
            raise ValueError(f"{key} must be two numbers, each at least 0 and below 1, got {value!r}")
    if not _is_fraction(options["lop_momentum"]):
        raise ValueError(f"lop_momentum must be at least 0 and below 1, got {options['lop_momentum']!r}")
    if not (_is_number(options["lop_eps"]) and 0 < options["lop_eps"] < math.inf):
        raise ValueError(f"lop_eps must be above 0, since h is 0 at first, got {options['lop_eps']!r}")
    if options.get("nesterov") and not options["momentum"]:
        raise ValueError("nesterov=True needs a momentum above 0, such as momentum=0.9")
    for key in ("multiplicative", "normalize", "decoupled_weight_decay"):
        if not isinstance(options[key], bool):
            raise ValueError(f"{key} must be True or False, got {options[key]!r}")
    if options["lop"] is not None:
        _check_range(options)
    if options["differentiable"]:
        raise ValueError("differentiable=True is not supported: a step learns α in place, from h alone")
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach=True and fused=True exclude each other: give one")


def _check_range(options: dict[str, Any]) -> None:
    """α₀ must be where the rule lets α be."""
    lr, bounds = options["lr"], options["lr_bounds"]
    lr = lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64, device="cpu")
    if options["multiplicative"] and not bool((lr > 0).all()):
        raise ValueError(f"multiplicative=True needs an lr above 0, got {options['lr']!r}")
    if bounds is None:
        return
    if not (isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(_is_number, bounds))):
        raise ValueError(f"lr_bounds must be None or two numbers, got {bounds!r}")
    low, high = bounds
    if not low < high:
        raise ValueError(f"lr_bounds must be two numbers, the smaller first, got {bounds!r}")
    if not bool(((lr >= low) & (lr <= high)).all()):
        raise ValueError(f"lr must lie within lr_bounds, got {options['lr']!r} and {bounds!r}")


def check_params(group: dict[str, Any]) -> None:
    """Raise ValueError for parameters that the group's options cannot serve."""
    params: list[Tensor] = group["params"]
    if group["fused"] and params:
        kinds = {(param.dtype, param.device) for param in params}
        dtype, device = params[0].dtype.to_real(), params[0].device.type
        if len(kinds) > 1 or not dtype.is_floating_point:
            raise ValueError(
                "fused=True needs floating-point parameters of one dtype on one device in each group, got "
                + ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            )
        if any(map(_has_gaps, params)):
            raise ValueError("fused=True needs parameters without gaps in memory: give fused=False")
        if group["lop"] is not None and dtype == torch.float64 and device != "cpu":
            # The kernel reads a tensor learning rate as float32.
            raise ValueError("fused=True cannot learn α for float64 parameters on a GPU: give fused=False")


def _has_gaps(tensor: Tensor) -> bool:
    """Whether the elements do not fill a stretch of memory, in any order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected and tensor.numel():
            return True
        expected *= size
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, float | int)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1
