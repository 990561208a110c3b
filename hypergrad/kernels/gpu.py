"""The Triton kernels for a GPU: which devices, ops and lops have them, and how they describe a step.

Triton itself is imported when the first step is taken (``gpu_launcher``), not before.
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
"""Whether a step takes them without ``fused=True``. Off until they have run on a GPU."""
NEVER = os.environ.get("HYPERGRAD_TRITON") == "0"

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CAPABILITY = (8, 0)
"""The lowest compute capability that the kernels are compiled for in the tests."""

# The names of the lops in the kernels, and of their states lop_first, lop_second and lop_count.
_LOPS: dict[type, tuple[str, tuple[str | None, str | None, str | None]]] = {
    rates.SGD: ("sgd", (None, None, None)),
    rates.SGDN: ("sgdn", ("momentum_buffer", None, None)),
    rates.Adam: ("adam", ("exp_avg", "exp_avg_sq", "step")),
    rates.AdaGrad: ("adagrad", (None, "sum", None)),
    rates.Lion: ("lion", ("exp_avg", None, None)),
}
FAILED: dict[str, str] = {}
"""Why the kernels could not be compiled, by the type of the device."""


class Spec(NamedTuple):
    """What a step is, apart from its tensors and numbers."""

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
    """Whether to write the moves."""
    members: int
    """N, or 0 without."""

    @property
    def columns(self) -> int:
        """How many sums the first pass makes."""
        return 5 if self.traced else 3 if self.normalize else 1


class Operands(NamedTuple):
    """The tensors of a step: P that have a gradient, then in ``along`` the traces of those that rest."""

    params: Sequence[Tensor]
    grads: Sequence[Tensor]
    along: Sequence[Tensor]
    """z, or the last direction, or none."""
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
    """Return why no device of this type and number has the kernels, or ``None`` if it has."""
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
        UnavailableError: if the kernels do not have it. A subclass may have an update of its own.
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
        UnavailableError: if the kernels do not have it.
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
