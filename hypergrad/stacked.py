"""N optimizers of one kind as one, over parameters stacked on a leading member axis.

Each member has its own α, β and state; all else is common. Each member moves as with an optimizer of its own,
up to the rounding of sums in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hypergrad import _param_groups, functional
from hypergrad._adam import Adam
from hypergrad._alpha_update import alpha_dtype
from hypergrad._operands import init_state
from hypergrad._sgd import SGD
from hypergrad._state import Moves
from hypergrad.directions import ParamState
from hypergrad.rates import RateState

BLOCK_BYTES = 1 << 19
"""The approximate size of a block of members' parameters, in bytes. On a CPU a step works block by block, so
that each pass over a block finds it in the cache, where the pass before left it."""

# The entries of a parameter group that each member has for itself.
_OWN = ("params", "param_names", "lr", "hypergrad_lr", "lop_state", "hypergradient", "moves")


@dataclass(slots=True)
class _Block:
    """Some members, as views of the stacked tensors.

    A block has its own copy of the state that members share, such as Adam's step count, since each block's
    step moves it.
    """

    members: slice
    params: list[Tensor]
    state: functional.State
    options: functional.StepOptions


class Stacked:
    """N optimizers that step at once.

    Args:
        optimizers: All ``SGD`` or all ``Adam``, each with one parameter group of T tensors; fresh, or loaded
            from states of equally many steps. Only ``lr`` and ``hypergrad_lr`` may differ. This class reads
            them here and does not use them again. On a GPU, Adam with ``capturable=True`` counts its steps
            there.
        params: T tensors of shape (N, *shape): the members' parameters, stacked in the optimizers' order.

    Attributes:
        params: The stacked parameters. ``step`` moves them in place, and ``keep`` replaces them.
        alpha: α, of shape (N,), or (T, N) for granularity ``"tensor"``. ``step`` moves it in place.
        hypergradient: h of the last step in α's shape; 0 before the first step and for a fixed α.

    Raises:
        ValueError: The optimizers differ in more than α, β and their states, have taken different numbers of
            steps, have several parameter groups or a schedule, or ``params`` are not their parameters
            stacked.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], params: Sequence[Tensor]) -> None:
        optimizers = _alike(optimizers, params)
        own = [optimizer.param_groups[0] for optimizer in optimizers]
        self.params = list(params)
        self._groups = [_portable(optimizer) for optimizer in optimizers]
        self._options = _param_groups.step_options(own[0])
        if self._options.fused:
            self._options = replace(self._options, fused=None)  # torch's fused kernels take one α for all
        self._direction = optimizers[0]._direction(own[0])
        self._rate = _param_groups.rate(own[0])
        dtype, device = alpha_dtype(self.params), self.params[0].device

        def stacked(values: Iterable[Any]) -> Tensor:
            return torch.stack([torch.as_tensor(value, dtype=dtype, device=device) for value in values], -1)

        self.alpha = stacked(group["lr"] for group in own)
        self.hypergradient = torch.zeros_like(self.alpha)
        self._beta = stacked(group["hypergrad_lr"] for group in own)
        self._rates: RateState = {}
        self._moves: Moves = {}
        if self._rate is not None:
            self.hypergradient = stacked(group["hypergradient"] for group in own)
            names = own[0]["lop_state"]
            self._rates = {name: stacked(group["lop_state"][name] for group in own) for name in names}
            if given := [group["moves"] for group in own if "moves" in group]:
                # A member without moves moved all of its tensors by u in its last step.
                whole = self.alpha.new_ones(len(self.params), *own[0]["lr"].shape[1:])
                self._moves = {"gain": stacked(group.get("moves", {"gain": whole})["gain"] for group in own)}
                for decay in [moves["decay"] for moves in given if "decay" in moves][:1]:
                    self._moves["decay"] = decay.to(self.alpha)
        self._states = [
            _stacked_state([o.state.get(o.param_groups[0]["params"][index], {}) for o in optimizers])
            for index in range(len(self.params))
        ]
        for param, state in zip(self.params, self._states, strict=True):
            init_state(param, state, self._direction, self._options, learned=self._rate is not None)
        self._blocks = self._in_blocks()

    def step(self, grads: Sequence[Tensor]) -> None:
        """Learn every member's α, then move its parameters by it.

        Args:
            grads: The gradients of the T tensors, each in the shape (N, *shape) of its parameter.

        Raises:
            ValueError: A kernel finds that a gradient has another shape than its parameter.
        """
        for block in self._blocks:
            h = functional.update(
                block.params,
                [grad[block.members] for grad in grads],
                block.state,
                self._direction,
                self._rate,
                block.options,
            )
            if h is not None and h is not block.state.h:
                self.hypergradient[..., block.members] = h

    def tensors(self) -> list[Tensor]:
        """Return all tensors that ``step`` moves in place, until ``keep`` makes new ones."""
        common = [self.alpha, self.hypergradient, *self.params, *self._rates.values()]
        states = [value for state in self._states for name, value in state.items() if name != "step"]
        gain = [self._moves["gain"]] if self._moves else []
        own = [
            value
            for block in self._blocks
            for value in (
                *(state["step"] for state in block.state.params if "step" in state),
                *(value for name, value in block.state.moves.items() if name != "gain"),
            )
        ]
        return common + states + gain + own

    def keep(self, members: Sequence[int]) -> None:
        """Keep only some members, in new tensors.

        Args:
            members: The indices of the members to keep, in their new order.
        """
        self._states = [
            {name: block[name] if name == "step" else value[list(members)] for name, value in state.items()}
            for state, block in zip(self._states, self._blocks[0].state.params, strict=True)
        ]
        index = torch.tensor(list(members), dtype=torch.int64, device=self.alpha.device)
        self.params = [
            param.detach().index_select(0, index).requires_grad_(param.requires_grad) for param in self.params
        ]
        self.alpha = self.alpha.index_select(-1, index)
        self.hypergradient = self.hypergradient.index_select(-1, index)
        self._beta = self._beta.index_select(-1, index)
        self._rates = {name: value.index_select(-1, index) for name, value in self._rates.items()}
        self._moves = {
            name: self._moves[name].index_select(-1, index) if name == "gain" else value
            for name, value in self._blocks[0].state.moves.items()
        }
        self._groups = [self._groups[member] for member in members]
        self._blocks = self._in_blocks()

    def state_dict(self, member: int) -> dict[str, Any]:
        """Return a copy of a member's state, as its own optimizer's ``state_dict`` would return it.

        Args:
            member: The member's index.
        """
        group = dict(self._groups[member])
        if self._rate is not None:
            group["lr"] = self.alpha[..., member].clone()
            group["hypergradient"] = self.hypergradient[..., member].clone()
            group["lop_state"] = {name: value[..., member].clone() for name, value in self._rates.items()}
            if moves := self._blocks[0].state.moves:
                own_moves = moves | {"gain": self._moves["gain"][..., member]}
                group["moves"] = {name: value.clone() for name, value in own_moves.items()}
        steps = self._blocks[0].state.params
        state = {
            index: {
                name: (step[name] if name == "step" else value[member]).clone() for name, value in own.items()
            }
            for index, (own, step) in enumerate(zip(self._states, steps, strict=True))
        }
        return {"state": state, "param_groups": [group]}

    def _in_blocks(self) -> list[_Block]:
        members = len(self._groups)
        size = members
        if self.params[0].device.type == "cpu":
            each = sum(param[0].numel() * param.element_size() for param in self.params)
            count = -(-members // max(1, BLOCK_BYTES // max(1, each)))
            size = -(-members // count)
        return [self._block(slice(start, start + size)) for start in range(0, members, size)]

    def _block(self, members: slice) -> _Block:
        states: list[ParamState] = [
            {name: value.clone() if name == "step" else value[members] for name, value in state.items()}
            for state in self._states
        ]
        rates = {name: value[..., members] for name, value in self._rates.items()}
        moves = {
            name: value[..., members] if name == "gain" else value.clone()
            for name, value in self._moves.items()
        }
        return _Block(
            members,
            [param.detach()[members] for param in self.params],
            functional.State(
                self.alpha[..., members], rates, states, moves, self.hypergradient[..., members]
            ),
            replace(self._options, hypergrad_lr=self._beta[members]),
        )


def _stacked_state(states: Sequence[ParamState]) -> ParamState:
    first = states[0]
    if any(state.keys() != first.keys() for state in states):
        raise ValueError("members of a stack must have taken equally many steps, got some that took none")
    if "step" in first and any(state["step"] != first["step"] for state in states):
        steps = ", ".join(str(int(state["step"])) for state in states)
        raise ValueError(f"members of a stack must have taken equally many steps, got {steps}")
    return {
        name: value.clone() if name == "step" else torch.stack([state[name] for state in states])
        for name, value in first.items()
    }


def _portable(optimizer: SGD | Adam) -> dict[str, Any]:
    """Return the parameter group as in a ``state_dict``, without the tensors that a stack keeps."""
    group: dict[str, Any] = torch.optim.Optimizer.state_dict(optimizer)["param_groups"][0]
    kept = ("lr", "lop_state", "hypergradient", "moves")
    return {name: value for name, value in group.items() if name not in kept or group["lop"] is None}


def _alike(optimizers: Sequence[torch.optim.Optimizer], params: Sequence[Tensor]) -> list[SGD | Adam]:
    """Return ``optimizers`` if they differ only in the entries of ``_OWN``; else raise ``ValueError``."""
    if not optimizers:
        raise ValueError("a stack needs at least one optimizer")
    first, alike = optimizers[0], []
    for index, optimizer in enumerate(optimizers):
        if not isinstance(optimizer, (SGD, Adam)) or type(optimizer) is not type(first):
            kinds = f"{type(first).__name__} and {type(optimizer).__name__}"
            raise ValueError(f"optimizers must all be hypergrad.SGD or all hypergrad.Adam, got {kinds}")
        if len(optimizer.param_groups) != 1:
            raise ValueError(
                f"optimizers[{index}] has {len(optimizer.param_groups)} parameter groups, not one"
            )
        group = optimizer.param_groups[0]
        if "lr_factor" in group:
            raise ValueError(f"optimizers[{index}] has a schedule, which does not stack")
        for name, value in first.param_groups[0].items():
            if name not in _OWN and group[name] != value:
                raise ValueError(
                    f"optimizers[{index}] has {name}={group[name]!r}, optimizers[0] has {value!r}"
                )
        shapes = [(len(optimizers), *param.shape) for param in group["params"]]
        if shapes != [tuple(param.shape) for param in params]:
            raise ValueError(f"params are not those of optimizers[{index}] stacked on a leading member axis")
        alike.append(optimizer)
    return alike
