"""The compiled kernels of ``cpu.c``, for the tensors of one step: checks them and hands over addresses.

Written for few instructions per step: a model may have a hundred parameters or a hundred million.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from hypergrad import directions, rates
from hypergrad.kernels import build

REALS = {torch.float32: "float", torch.float64: "double"}

# ``Call`` in cpu.c: a count and addresses (tensors, sizes, theta, grad, direction, first, second, step),
# numbers (momentum, beta1, beta2, eps, weight_decay, sign), threads.
_CALL = struct.Struct("@8q6dq")
# ``Rule``: kind, granularity, addresses (alpha, h, first, second, step), numbers (hypergrad_lr, beta1, beta2,
# eps).
_RULE = struct.Struct("@7q4d")
_GRANULARITIES = {"group": 0, "tensor": 1, "released": 2}


class CPUKernel:
    """One step of ``direction``, whose learned α needs its ``previous``; see ``hypergrad.kernels.Kernel``."""

    __slots__ = ("_call", "_columns", "_dtype", "_functions", "_held", "_written")

    def __init__(
        self,
        direction: directions.Direction,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[directions.ParamState],
        *,
        weight_decay: float,
        maximize: bool,
    ) -> None:
        """Take the operands of one step.

        Raises:
            build.UnavailableError: if there is no kernel for them.
            ValueError: if a gradient or state has another shape than its parameter.
        """
        name, keys, numbers = _described(direction)
        self._dtype = params[0].dtype
        self._functions = _functions(self._dtype, name)
        own = [[state[key] for state in states] for key in keys if key is not None]
        grads = _suitable(params, grads, own, self._dtype)
        written = [*params, *(tensor for tensors in own for tensor in tensors)]
        addresses = array("q", [param.numel() for param in params])
        addresses.extend([tensor.data_ptr() for tensor in grads])
        addresses.extend([tensor.data_ptr() for tensor in written])
        if name == "adam":
            steps = [state["step"] for state in states]
            if any(step.dtype != torch.float32 or not step.is_cpu for step in steps):
                raise build.UnavailableError("they take Adam's step as float32 on the CPU")
            addresses.extend([step.data_ptr() for step in steps])
            written += steps
        count = len(params)
        start, column = addresses.buffer_info()[0], addresses.itemsize * count
        places = iter(range(start + 3 * column, start + 7 * column, column))
        fields = [0 if key is None else next(places) for key in keys]
        self._call = _CALL.pack(
            *(count, start, start + 2 * column, start + column, *fields),
            next(places) if name == "adam" else 0,
            *(*numbers, weight_decay, -1.0 if maximize else 1.0, torch.get_num_threads()),
        )
        # What C reads through its addresses lives as long as this object.
        self._held, self._written, self._columns = (addresses, grads), written, count

    def products(self, *, decays: Tensor | None = None, norms: bool = False) -> Tensor:
        """See ``hypergrad.kernels.Kernel``."""
        count = self._columns
        products = torch.empty((count, 3) if norms else count, dtype=self._dtype)
        if decays is not None:
            decays = decays.to(self._dtype).contiguous()
        address = None if decays is None else decays.data_ptr()
        _check(self._functions.products(self._call, address, products.data_ptr(), 3 if norms else 1))
        return products

    def move(self, alpha: Tensor, *, decay: float = 0.0) -> None:
        """See ``hypergrad.kernels.Kernel``."""
        if alpha.dtype != self._dtype or not alpha.is_contiguous():
            alpha = alpha.to(self._dtype).contiguous()
        _check(self._functions.move(self._call, alpha.data_ptr(), alpha.ndim, decay))
        # Autograd must hear of writes that it does not see.
        torch._C._increment_version(self._written)

    def step(
        self,
        rate: rates.Rate,
        state: rates.RateState,
        alpha: Tensor,
        *,
        hypergrad_lr: Tensor | float,
        granularity: str,
    ) -> Tensor | None:
        """See ``hypergrad.kernels.Kernel``."""
        beta1 = beta2 = eps = 0.0
        kept = [alpha]
        if type(rate) is rates.SGD:
            kind = 0
        elif isinstance(rate, rates.SGDN) and type(rate) is rates.SGDN:
            kind, beta1 = 1, rate.momentum
            kept.append(state["momentum_buffer"])
        elif isinstance(rate, rates.Adam) and type(rate) is rates.Adam:
            kind, (beta1, beta2), eps = 2, rate.betas, rate.eps
            kept += [state["exp_avg"], state["exp_avg_sq"], state["step"]]
        else:
            return None
        if isinstance(hypergrad_lr, Tensor):
            return None
        for tensor in kept:
            if tensor.dtype != self._dtype or not tensor.is_cpu or not tensor.is_contiguous():
                return None
        h = torch.empty_like(alpha)
        addresses = [tensor.data_ptr() for tensor in kept[1:]]
        rule = _RULE.pack(
            *(kind, _GRANULARITIES[granularity], alpha.data_ptr(), h.data_ptr()),
            *(*addresses, 0, 0, 0)[:3],
            *(hypergrad_lr, beta1, beta2, eps),
        )
        _check(self._functions.step(self._call, rule))
        torch._C._increment_version([*self._written, *kept])
        return h


Keys = tuple[str | None, str | None, str | None]
"""The state's names for the fields direction, first and second of ``Call``."""


def _described(direction: directions.Direction) -> tuple[str, Keys, tuple[float, float, float, float]]:
    """Return the direction's name in cpu.c, its state, and its momentum, β₁, β₂ and ε."""
    if type(direction) in (directions.SGD, directions.Momentum, directions.Adam):
        if isinstance(direction, directions.Adam):
            return "adam", (None, "exp_avg", "exp_avg_sq"), (0.0, *direction.betas, direction.eps)
        if not isinstance(direction, directions.Momentum):
            return "sgd", ("direction", None, None), (0.0, 0.0, 0.0, 0.0)
        numbers = (direction.momentum, 0.0, 0.0, 0.0)
        if direction.nesterov:
            return "nesterov", ("direction", "momentum_buffer", None), numbers
        return "heavy_ball", (None, "momentum_buffer", None), numbers
    raise build.UnavailableError(f"there are none for {type(direction).__name__}")


class _Functions(NamedTuple):
    products: Callable[..., int]
    move: Callable[..., int]
    step: Callable[..., int]


@cache
def _functions(dtype: torch.dtype, name: str) -> _Functions:
    """Return the functions of cpu.c for one direction."""
    if dtype not in REALS:
        raise build.UnavailableError(f"there are none for {dtype}")
    library = build.library(REALS[dtype])
    products, move, step = library[f"products_{name}"], library["move"], library[f"step_{name}"]
    products.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    move.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double)
    step.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    return _Functions(products, move, step)


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("a hypergradient step found no memory for its sums")


def _suitable(
    params: Sequence[Tensor], grads: Sequence[Tensor], own: list[list[Tensor]], dtype: torch.dtype
) -> Sequence[Tensor]:
    """Return the gradients, copied where their elements do not lie as their parameters' do.

    Raises:
        build.UnavailableError: for other tensors than plain ones of ``dtype`` on the CPU, without gaps, state
            laid out as its parameter.
        ValueError: for another shape than the parameter's.
    """
    contiguous = True
    for tensors in (params, grads, *own):
        for tensor, param in zip(tensors, params, strict=True):
            if tensor.dtype != dtype or type(tensor) not in _PLAIN or not tensor.is_cpu:
                raise build.UnavailableError(f"they take plain CPU tensors of one dtype, {dtype}")
            if tensor is not param and tensor.shape != param.shape:
                raise ValueError(f"shapes {tuple(tensor.shape)} and {tuple(param.shape)} differ")
            contiguous = contiguous and tensor.is_contiguous() and not tensor.is_neg()
    if contiguous:
        return grads
    for tensors in (params, *own):
        for tensor, param in zip(tensors, params, strict=True):
            if tensor.is_neg() or not (_is_dense(tensor) and _lie_alike(tensor, param)):
                raise build.UnavailableError(
                    "they take tensors without gaps, state laid out as its parameter"
                )
    return [
        grad if _lie_alike(grad, param) and not grad.is_neg() else torch.empty_like(param).copy_(grad)
        for grad, param in zip(grads, params, strict=True)
    ]


_PLAIN = (Tensor, torch.nn.Parameter)


def _lie_alike(a: Tensor, b: Tensor) -> bool:
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
