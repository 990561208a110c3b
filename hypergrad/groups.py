"""A parameter group: what its options mean to ``hypergrad.functional``, and where its α and state lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypergrad import functional, rates
from hypergrad.hypergradients import no_moves


def rate(group: dict[str, Any]) -> rates.Rate | None:
    """Return the group's lop."""
    betas = {} if group["lop_betas"] is None else {"betas": tuple(group["lop_betas"])}
    match group["lop"]:
        case "sgd":
            return rates.SGD()
        case "sgdn":
            return rates.SGDN(group["lop_momentum"])
        case "adam":
            return rates.Adam(**betas, eps=group["lop_eps"])
        case "adagrad":
            return rates.AdaGrad(group["lop_eps"])
        case "lion":
            return rates.Lion(**betas)
    return None


def update_options(group: dict[str, Any]) -> dict[str, Any]:
    """Return the group's options that ``functional.update`` takes by these names."""
    names = (
        "hypergrad_lr",
        "weight_decay",
        "decoupled_weight_decay",
        "maximize",
        "granularity",
        "multiplicative",
        "normalize",
        "lr_bounds",
        "foreach",
    )
    return {name: group[name] for name in names} | {
        "fused": bool(group["fused"]),
        "schedule": group.get("lr_factor"),
    }


def is_settled(group: dict[str, Any]) -> bool:
    """Whether α is where and what ``settle`` left it: users move models and assign learning rates."""
    alpha = group["lr"]
    return (
        isinstance(alpha, Tensor)
        and alpha.device == group["params"][0].device
        and alpha.shape == group["hypergradient"].shape
        and ("moves" in group or not _moves_by_more_than_u(group))
    )


def settle(group: dict[str, Any]) -> None:
    """Make α a tensor of the group's own; its rule's state, h and the rest alike in device and dtype."""
    lop = rate(group)
    if lop is None or not group["params"]:
        return
    fresh = functional.init(group["params"], lop, lr=group["lr"], granularity=group["granularity"])
    alpha = fresh.alpha
    assert isinstance(alpha, Tensor)
    group["lr"] = alpha
    group["lop_state"] = fresh.rate | _like(alpha, group.get("lop_state", {}))
    group["hypergradient"] = group.get("hypergradient", torch.zeros_like(alpha)).to(alpha)
    if "lr_factor" in group:
        group["lr_factor"] = torch.as_tensor(group["lr_factor"]).to(alpha)
    if "moves" in group or _moves_by_more_than_u(group):
        moves = no_moves(len(group["params"]), alpha, group["granularity"] == "tensor")
        group["moves"] = moves | _like(alpha, group.get("moves", {}))


def _moves_by_more_than_u(group: dict[str, Any]) -> bool:
    return "lr_factor" in group or bool(group["decoupled_weight_decay"] and group["weight_decay"])


def _like(alpha: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(alpha) for name, value in state.items()}
