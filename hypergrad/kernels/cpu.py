"""The compiled kernels of ``cpu.c``: check the tensors of one step, and pass their addresses to C.

A step takes few instructions here, since a model may have a hundred parameters or a hundred million.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import chain, compress
from operator import attrgetter, is_, not_
from typing import NamedTuple

import torch
from torch import Tensor

from hypergrad import directions, rates
from hypergrad._tensor_views import is_dense, lie_alike
from hypergrad.kernels import build
from hypergrad.kernels.cpu_interface import (
    CALL,
    GRANULARITIES,
    LOP_STATES,
    RULE,
    check,
    describe_lop,
    describe_op,
    functions,
)


class CPUKernel:
    """One step with a learned α on a CPU, as ``hypergrad.kernels.Kernel`` describes it.

    The arguments are those of ``hypergrad.kernels.choose``.

    Raises:
        build.UnavailableError: There is no kernel for the tensors or the op.
        ValueError: A gradient or state has another shape than its parameter, or a parameter lacks the member
            axis.
    """

    __slots__ = (
        *("_addresses", "_call", "_described", "_dtype", "_functions", "_grads", "_keys", "_members"),
        *("_rule", "_shapes", "_sizes", "_storages", "_threads", "_written", "_written_at"),
    )

    def __init__(
        self,
        direction: directions.Direction,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[directions.ParamState],
        *,
        weight_decay: float,
        maximize: bool,
        members: int | None = None,
        traced: bool = False,
    ) -> None:
        name, keys, numbers = describe_op(direction)
        if traced:
            keys = (None, *keys[1:])
        self._described = (direction, weight_decay, maximize, members, traced)
        self._dtype, self._members = params[0].dtype, members
        self._functions = functions(self._dtype, name)
        self._keys = (*filter(None, keys), *(("trace",) if traced else ()))
        own = [[state[key] for state in states] for key in self._keys]
        self._grads = _suitable(params, grads, dict(zip(self._keys, own, strict=True)), self._dtype)
        if name == "adam":
            self._keys += ("step",)
            own.append([state["step"] for state in states])
            if not _are_real(own[-1], torch.float32) or any(count.numel() != 1 for count in own[-1]):
                raise build.UnavailableError("they take Adam's step as one float32 on the CPU")
        # Keep the memory that C reaches through addresses: that of gradients until the end of the step, all
        # other as long as this object lives.
        self._written = [*params, *chain.from_iterable(own)]
        self._written_at = list(map(_address, self._written))
        self._sizes = list(map(Tensor.numel, self._written))
        self._storages = list(map(Tensor.untyped_storage, self._written))
        self._shapes = list(map(_shape, params))
        if members is not None and any(shape[:1] != (members,) for shape in self._shapes):
            raise ValueError(f"each parameter must stack {members} members on its first axis")
        addresses = array("q", map(_address, self._grads))
        addresses.extend(self._written_at)
        addresses.extend(param.numel() // (members or 1) for param in params)
        self._addresses = addresses
        count = len(params)
        start, column = addresses.buffer_info()[0], addresses.itemsize * count
        places = iter(range(start + 2 * column, start + 7 * column, column))
        fields = [0 if key is None else next(places) for key in keys]
        trace = next(places) if traced else 0
        step = next(places) if name == "adam" else 0
        self._threads = torch.get_num_threads()
        self._call = CALL.pack(
            *(count, members or 1, next(places), start + column, start, *fields, step, trace),
            *(*numbers, weight_decay, -1.0 if maximize else 1.0, self._threads),
        )
        self._rule: _Rule | None = None

    def renew(
        self,
        direction: directions.Direction,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        states: Sequence[directions.ParamState],
        *,
        weight_decay: float,
        maximize: bool,
        members: int | None = None,
        traced: bool = False,
    ) -> bool:
        """See ``hypergrad.kernels.Kernel``."""
        described = (direction, weight_decay, maximize, members, traced)
        if self._described != described or self._threads != torch.get_num_threads():
            return False
        if len(params) != len(self._shapes):
            return False
        written = [*params]
        for key in self._keys:
            written += [state.get(key) for state in states]  # type: ignore[misc]
        if not all(map(is_, written, self._written)):
            return False
        # `_storages` keeps the memory at an address. A tensor's view of it may have changed.
        if list(map(Tensor.data_ptr, written)) != self._written_at:
            return False
        if list(map(Tensor.numel, written)) != self._sizes or not _PLAIN.issuperset(map(type, grads)):
            return False
        given: list[Tensor] = list(grads)  # type: ignore[arg-type]  # None is not plain
        both = [*params, *given]
        if not (_are_real(both, self._dtype) and all(map(Tensor.is_contiguous, both))):
            return False
        if list(map(_shape, given)) != self._shapes or any(map(Tensor.is_neg, given)):
            return False
        addresses = array("q", map(Tensor.data_ptr, given))
        if 0 in addresses and any(map(Tensor.numel, compress(given, map(not_, addresses)))):
            return False
        self._addresses[: len(given)] = addresses
        self._grads = given
        return True

    def products(self, *, decays: Tensor | None = None, norms: bool = False) -> Tensor:
        """See ``hypergrad.kernels.Kernel``."""
        columns = (3,) if norms else ()
        axis = () if self._members is None else (self._members,)
        count = len(self._shapes)
        products = torch.empty((count, *axis, *columns), dtype=self._dtype, device="cpu")
        if decays is not None:
            decays = self._operand(decays, (count,))
        address = None if decays is None else decays.data_ptr()
        check(self._functions.products(self._call, address, products.data_ptr(), 3 if norms else 1))
        return products.movedim(-1, 1) if norms else products

    def move(self, alpha: Tensor, *, decay: float = 0.0) -> None:
        """See ``hypergrad.kernels.Kernel``."""
        count = len(self._shapes)
        if self._members is not None:
            alpha = self._operand(alpha.expand(count, self._members), (count, self._members))
        else:
            alpha = self._operand(alpha, (count,) if alpha.ndim else ())
        check(self._functions.move(self._call, alpha.data_ptr(), min(1, alpha.ndim), decay))
        self._grads = ()
        # Tell autograd of the writes that it does not see.
        torch._C._increment_version(self._written)

    def traced_products(self, *, decay: float) -> Tensor:
        """See ``hypergrad.kernels.Kernel``."""
        axis = () if self._members is None else (self._members,)
        products = torch.empty((len(self._shapes), *axis, 5), dtype=self._dtype, device="cpu")
        check(self._functions.traced(self._call, decay, products.data_ptr()))
        return products.movedim(-1, 1)

    def move_traced(self, alpha: Tensor, keep: Tensor, *, decay: float, schedule: float) -> None:
        """See ``hypergrad.kernels.Kernel``."""
        count = len(self._shapes)
        shape: tuple[int, ...] = (count,) if alpha.ndim or keep.ndim else ()
        if self._members is not None:
            shape = (count, self._members)
        alpha, keep = (self._operand(each.expand(shape), shape) for each in (alpha, keep))
        check(
            self._functions.move_traced(
                self._call, alpha.data_ptr(), keep.data_ptr(), min(1, len(shape)), decay, schedule
            )
        )
        self._grads = ()
        torch._C._increment_version(self._written)

    def _operand(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``tensor`` contiguous and in the parameters' dtype, for C.

        Raises:
            ValueError: ``tensor`` is on another device or has another shape than ``shape``.
        """
        if not tensor.is_cpu or tensor.shape != shape:
            raise ValueError(
                f"kernels on a CPU need a tensor of shape {shape} there, got shape {tuple(tensor.shape)} on "
                f"{tensor.device}"
            )
        return tensor.to(self._dtype).contiguous()

    def step(
        self,
        rate: rates.Rate,
        state: rates.RateState,
        alpha: Tensor,
        *,
        hypergrad_lr: Tensor | float,
        granularity: str,
        out: Tensor | None = None,
    ) -> Tensor | None:
        """See ``hypergrad.kernels.Kernel``."""
        if self._members is not None or isinstance(hypergrad_lr, Tensor):
            return None
        rule, asked = self._rule, (rate, hypergrad_lr, granularity)
        if rule is not None and rule.asked != asked:
            rule = None
        names = LOP_STATES.get(type(rate)) if rule is None else rule.names
        if names is None:
            return None
        h = torch.empty_like(alpha) if out is None else out
        kept = [alpha, h, *[state[name] for name in names]]
        if rule is None or not rule.is_of(kept):
            rule = self._rule = self._rule_of(asked, names, kept)
            if rule is None:
                return None
        check(self._functions.step(self._call, rule.packed))
        self._grads = ()
        torch._C._increment_version(self._written + kept)
        return h

    def _rule_of(
        self, asked: tuple[rates.Rate, float, str], names: tuple[str, ...], kept: list[Tensor]
    ) -> _Rule | None:
        """Pack a lop for C, or return ``None`` if its tensors do not fit: C might write past their ends."""
        rate, hypergrad_lr, granularity = asked
        if not _are_real(kept, self._dtype) or not all(map(Tensor.is_contiguous, kept)):
            return None
        alphas = len(self._shapes) if granularity == "tensor" else 1
        entries = 1 if granularity == "group" else len(self._shapes)
        kept_at, sizes = list(map(Tensor.data_ptr, kept)), list(map(Tensor.numel, kept))
        if 0 in kept_at or sizes != [alphas, alphas, *[entries] * len(names)]:
            return None
        addresses = (*kept_at, 0, 0, 0)[:5]
        kind, *numbers = describe_lop(rate)
        packed = RULE.pack(kind, GRANULARITIES[granularity], *addresses, hypergrad_lr, *numbers)
        return _Rule(packed, asked, names, kept, kept_at, sizes, list(map(Tensor.untyped_storage, kept)))


class _Rule(NamedTuple):
    packed: bytes
    asked: tuple[rates.Rate, float, str]
    names: tuple[str, ...]
    kept: list[Tensor]
    kept_at: list[int]
    sizes: list[int]
    storages: list[torch.UntypedStorage]
    """These keep the memory at the addresses in ``packed``."""

    def is_of(self, kept: list[Tensor]) -> bool:
        """Return whether these are the lop's tensors, unchanged in address and size."""
        return (
            all(map(is_, kept, self.kept))
            and list(map(Tensor.data_ptr, kept)) == self.kept_at
            and list(map(Tensor.numel, kept)) == self.sizes
        )


def _suitable(
    params: Sequence[Tensor], grads: Sequence[Tensor], own: dict[str, list[Tensor]], dtype: torch.dtype
) -> Sequence[Tensor]:
    """Return the gradients. Copy those that keep their elements in another order than their parameters.

    Raises:
        build.UnavailableError: A tensor is not plain, of ``dtype``, on the CPU and without gaps, or a state
            keeps its elements in another order than its parameter.
        ValueError: A gradient or state has another shape than its parameter.
    """
    tensors = [*params, *grads, *chain.from_iterable(own.values())]
    if not (_PLAIN.issuperset(map(type, tensors)) and _are_real(tensors, dtype)):
        raise build.UnavailableError(f"they take plain CPU tensors of one dtype, {dtype}")
    shapes = list(map(_shape, params))
    for name, others in (("gradient", grads), *own.items()):
        if list(map(_shape, others)) != shapes:
            for index, (shape, other) in enumerate(zip(shapes, map(_shape, others), strict=True)):
                if shape != other:
                    raise ValueError(
                        f"the {name} of params[{index}] and the parameter have shapes {tuple(other)} and "
                        f"{tuple(shape)}"
                    )
    if all(map(Tensor.is_contiguous, tensors)) and not any(map(Tensor.is_neg, tensors)):
        return grads
    for others in (params, *own.values()):
        for tensor, param in zip(others, params, strict=True):
            if tensor.is_neg() or not (is_dense(tensor) and lie_alike(tensor, param)):
                raise build.UnavailableError(
                    "they take tensors without gaps, state laid out as its parameter"
                )
    return [
        grad if lie_alike(grad, param) and not grad.is_neg() else torch.empty_like(param).copy_(grad)
        for grad, param in zip(grads, params, strict=True)
    ]


# Loops over tensors run in C where they can, since a model may have a hundred tensors.
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_dtype, _is_cpu, _shape = attrgetter("dtype"), attrgetter("is_cpu"), attrgetter("shape")


def _address(tensor: Tensor) -> int:
    """Return the address of the first element.

    Raises:
        build.UnavailableError: The tensor has no memory, as zeros that autograd does not write out.
    """
    address: int = tensor.data_ptr()
    if not address and tensor.numel():
        raise build.UnavailableError("they take tensors with memory of their own")
    return address


def _are_real(tensors: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Return whether all tensors are on the CPU and of ``dtype``."""
    return {dtype}.issuperset(map(_dtype, tensors)) and all(map(_is_cpu, tensors))
