"""The compiled kernels of ``cpu.c``, for the tensors of one step: checks them and hands over addresses."""

from __future__ import annotations

import ctypes
import itertools
from array import array
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hypergrad import directions
from hypergrad.kernels import build

REALS = {torch.float32: "float", torch.float64: "double"}

# Per direction: its function for pass 1, and where its state goes in Call.
_SGD = ("products_sgd", {"direction": "direction"})
_HEAVY_BALL = ("products_heavy_ball", {"first": "momentum_buffer"})
_NESTEROV = ("products_nesterov", {"direction": "direction", "first": "momentum_buffer"})
_ADAM = ("products_adam", {"first": "exp_avg", "second": "exp_avg_sq"})


class _Call(ctypes.Structure):
    """``Call`` in ``cpu.c``."""

    _fields_ = (
        ("tensors", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in ("sizes", "theta", "grad", "direction", "first", "second", "step")
        ),
        *((name, ctypes.c_double) for name in ("momentum", "beta1", "beta2", "eps", "weight_decay", "sign")),
        ("threads", ctypes.c_int64),
    )


def supports(direction: directions.Direction) -> bool:
    """Whether ``cpu.c`` has this direction."""
    return type(direction) in (directions.SGD, directions.Momentum, directions.Adam)


class CPUKernel:
    """One step of ``direction``, whose learned α needs its ``previous``; see ``hypergrad.kernels.Kernel``."""

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
        """
        dtype = params[0].dtype
        if dtype not in REALS:
            raise build.UnavailableError(f"there are none for {dtype}")
        self._library = build.library(REALS[dtype])
        call = _Call(
            tensors=len(params),
            weight_decay=weight_decay,
            sign=-1.0 if maximize else 1.0,
            threads=torch.get_num_threads(),
        )
        if isinstance(direction, directions.Adam):
            (call.beta1, call.beta2), call.eps = direction.betas, direction.eps
            self._name, fields = _ADAM
        elif isinstance(direction, directions.Momentum):
            call.momentum = direction.momentum
            self._name, fields = _NESTEROV if direction.nesterov else _HEAVY_BALL
        else:
            self._name, fields = _SGD
        own = {field: [state[key] for state in states] for field, key in fields.items()}
        grads = _alike(params, grads, own.values(), dtype)
        operands = {"theta": params, "grad": grads, **own}
        if "second" in own:
            operands["step"] = _counts(states)
        numbers = array("q", [param.numel() for param in params])
        for tensors in operands.values():
            numbers.extend([tensor.data_ptr() for tensor in tensors])
        address, column = numbers.buffer_info()[0], numbers.itemsize * len(params)
        for index, field in enumerate(("sizes", *operands)):
            setattr(call, field, address + index * column)
        # What C reads through its addresses lives as long as this object.
        self._call, self._numbers, self._operands, self._dtype = call, numbers, operands, dtype

    def products(self, *, decays: Tensor | None = None, norms: bool = False) -> Tensor:
        """See ``hypergrad.kernels.Kernel``."""
        columns = 3 if norms else 1
        shape = (self._call.tensors, 3) if norms else (self._call.tensors,)
        products = torch.empty(shape, dtype=self._dtype)
        decays = None if decays is None else decays.contiguous()
        function = self._library[self._name]
        _check(
            function(ctypes.byref(self._call), _pointer(decays), _pointer(products), ctypes.c_int64(columns))
        )
        return products

    def move(self, alpha: Tensor, *, decay: float = 0.0) -> None:
        """See ``hypergrad.kernels.Kernel``."""
        alpha = alpha.to("cpu", self._dtype).contiguous()
        stride = ctypes.c_int64(alpha.ndim)
        _check(self._library.move(ctypes.byref(self._call), _pointer(alpha), stride, ctypes.c_double(decay)))
        # Autograd must hear of writes that it does not see.
        written = (tensors for field, tensors in self._operands.items() if field != "grad")
        torch.autograd.graph.increment_version(itertools.chain.from_iterable(written))


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("a hypergradient step found no memory for its sums")


def _counts(states: Sequence[directions.ParamState]) -> list[Tensor]:
    steps = [state["step"] for state in states]
    if any(step.dtype != torch.float32 or not step.is_cpu for step in steps):
        raise build.UnavailableError("they take Adam's step as float32 on the CPU")
    return steps


def _alike(
    params: Sequence[Tensor], grads: Sequence[Tensor], own: Iterable[list[Tensor]], dtype: torch.dtype
) -> list[Tensor]:
    """Return the gradients, copied where their elements do not lie as their parameters' do.

    Raises:
        build.UnavailableError: for other tensors than plain ones of ``dtype`` on the CPU, without gaps, state
            laid out as its parameter.
        ValueError: for another shape than the parameter's.
    """
    grads = list(grads)
    for tensors in (params, grads, *own):
        for index, (tensor, param) in enumerate(zip(tensors, params, strict=True)):
            if type(tensor) not in (Tensor, torch.nn.Parameter) or not tensor.is_cpu or tensor.dtype != dtype:
                raise build.UnavailableError(f"they take plain CPU tensors of one dtype, {dtype}")
            if tensor.shape != param.shape:
                raise ValueError(f"shapes {tuple(tensor.shape)} and {tuple(param.shape)} differ")
            if tensor.is_contiguous() and param.is_contiguous() and not tensor.is_neg():
                continue
            if not _is_dense(param) or param.is_neg():
                raise build.UnavailableError("they take parameters whose elements fill their memory")
            if tensor.stride() == param.stride() and not tensor.is_neg():
                continue
            if tensors is not grads:
                raise build.UnavailableError("they take state that lies as its parameter does")
            grads[index] = torch.empty_like(param).copy_(tensor)
    return grads


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
