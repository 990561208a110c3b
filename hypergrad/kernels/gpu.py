"""The Triton kernels for a GPU: which devices, ops and lops have them, and how they describe a step.

The first step imports Triton (``gpu_launcher``), so that importing this module does not need it.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from hypergrad import directions, rates
from hypergrad.kernels.build import UnavailableError

DEVICES = {"cuda"}
"""The types of devices that have these kernels. Tests add the CPU, for Triton's interpreter."""
ON_BY_DEFAULT = os.environ.get("HYPERGRAD_TRITON") == "1"
"""Whether a step takes these kernels without ``fused=True``. Off by default until they have run on a GPU."""
NEVER = os.environ.get("HYPERGRAD_TRITON") == "0"

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)
"""The lowest compute capability for which the tests compile the kernels."""

# The names of the lops in the kernels, and of their states lop_first, lop_second and lop_count.
_LOPS: dict[type, tuple[str, tuple[str | None, str | None, str | None]]] = {
    rates.SGD: ("sgd", (None, None, None)),
    rates.SGDN: ("sgdn", ("momentum_buffer", None, None)),
    rates.Adam: ("adam", ("exp_avg", "exp_avg_sq", "step")),
    rates.AdaGrad: ("adagrad", (None, "sum", None)),
    rates.Lion: ("lion", ("exp_avg", None, None)),
}
FAILED: dict[str, str] = {}
"""Why Triton could not compile the kernels, by the type of the device."""


class Spec(NamedTuple):
    """The settings of a step, apart from its tensors and numbers.

    Attributes:
        op: The op's name in the kernels, as ``op_of`` returns it.
        lop: The lop's name in the kernels, as ``lop_of`` returns it.
        granularity: ``"group"``, ``"tensor"`` or ``"released"``.
        traced: Whether the step has a trace.
        normalize: Whether h is a cosine.
        multiplicative: Whether the lop moves log α.
        held: Whether a limit relative to ‖θ‖ holds for the step.
        coupled: Whether there is coupled weight decay.
        bounded: Whether α has bounds.
        remember: Whether the step writes the moves.
        members: The number N of members. 0 for parameters without a member axis.
    """

    op: str
    lop: str
    granularity: str
    traced: bool
    normalize: bool
    multiplicative: bool
    held: bool
    coupled: bool
    bounded: bool
    remember: bool
    members: int

    @property
    def columns(self) -> int:
        """The number of sums that the first pass makes of each tile."""
        return 5 if self.traced else 3 if self.normalize else 1


class Operands(NamedTuple):
    """The tensors of a step, of which P have a gradient.

    Attributes:
        params: The P parameters that have a gradient.
        grads: Their gradients.
        along: The traces z: of the P parameters, then of those that rest but share the α. Without a trace the
            last directions of the P, or no tensors if the op computes them.
        first: The momentum's v or Adam's m of each of the P. Empty for SGD.
        second: Adam's v of each of the P. Empty for other ops.
        steps: Adam's step count of each of the P, 0-d float32 tensors. Empty for other ops.
        alpha: α, of shape (*members), or (T, *members) for granularity ``"tensor"``.
        h: A tensor like ``alpha`` for h.
        lop_state: The lop's states, in the order of ``lop_of``.
        gains: The gains of the last moves, of shape (T, *members). ``None`` means 1.
        decays: The decays of the last moves, of shape (T,). ``None`` means 0.
        beta: β, of shape (*members). ``None`` if it is among the numbers of the step.
        schedule: The schedule's factor s, 0-d or (*members). ``None`` if it is among the numbers.
        grad_scale: A 0-d tensor that divides the gradients. ``None`` means 1.
        found_inf: A 0-d tensor. If it is not 0, nothing changes. ``None`` means 0.
    """

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    along: Sequence[Tensor]
    first: Sequence[Tensor]
    second: Sequence[Tensor]
    steps: Sequence[Tensor]
    alpha: Tensor
    h: Tensor
    lop_state: Sequence[Tensor]
    gains: Tensor | None
    decays: Tensor | None
    beta: Tensor | None
    schedule: Tensor | None
    grad_scale: Tensor | None
    found_inf: Tensor | None


def why_not_on(kind: str, index: int = 0) -> str | None:
    """Return why a device does not have the kernels, or ``None`` if it has.

    Args:
        kind: The device's type, such as ``"cuda"``.
        index: The device's number among those of its type. Default 0.
    """
    if kind not in DEVICES:
        return f"there are none for {kind}"
    if NEVER:
        return "HYPERGRAD_TRITON=0 turns Triton's kernels off"
    if kind in FAILED:
        return FAILED[kind]
    return _why_not_on(kind, index)


why_not_on._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile calls, not traces it


@cache
def _why_not_on(kind: str, index: int) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if kind == "cuda":
        if not torch.cuda.is_available():
            return "there is no CUDA device"
        if torch.version.hip is None and torch.cuda.get_device_capability(index) < CAPABILITY:
            return "they need a GPU of compute capability 8.0 or newer"
    return None


def op_of(direction: directions.Direction) -> tuple[str, tuple[str | None, str | None, str | None]]:
    """Return the op's name in the kernels, and the names of its states: last direction, first and second.

    Raises:
        UnavailableError: The kernels do not have the op. They have no subclasses of ops, which may override
            ``update``.
    """
    if type(direction) is directions.SGD:
        return "sgd", ("direction", None, None)
    if type(direction) is directions.Momentum:
        if direction.nesterov:
            return "nesterov", ("direction", "momentum_buffer", None)
        return "heavy ball", (None, "momentum_buffer", None)
    if type(direction) is directions.Adam:
        return "adam", (None, "exp_avg", "exp_avg_sq")
    raise UnavailableError(f"there are none for {type(direction).__name__}")


def lop_of(rate: rates.Rate) -> tuple[str, tuple[str | None, str | None, str | None]]:
    """Return the lop's name in the kernels, and the names of its three states.

    Raises:
        UnavailableError: The kernels do not have the lop.
    """
    if type(rate) not in _LOPS:
        raise UnavailableError(f"there are none for the lop {type(rate).__name__}")
    return _LOPS[type(rate)]


def lop_states(lop: str) -> tuple[str | None, str | None, str | None]:
    """Return the names of the three states of a lop, by its name in the kernels."""
    return next(names for name, names in _LOPS.values() if name == lop)


def numbers_of(rule: directions.Direction | rates.Rate) -> list[float]:
    """Return β₁ (or μ), β₂, ε, log β₁ and log β₂ of an op or a lop; 0 for what it lacks."""
    beta1, beta2 = getattr(rule, "betas", (getattr(rule, "momentum", 0.0), 0.0))
    logs = [math.log(beta) if beta else -math.inf for beta in (beta1, beta2)]
    return [beta1, beta2, getattr(rule, "eps", 0.0), *logs]
