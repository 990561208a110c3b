"""The contract of torch.optim around ``hypergrad.functional``, which the optimizers share."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import _param_groups, _validation, directions, functional
from hypergrad._numbers import as_float
from hypergrad._scheduler_view import Schedule
from hypergrad._state_checks import check_shapes


class HypergradientOptimizer(torch.optim.Optimizer):
    """What the optimizers share. Subclasses name their direction."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, _validation.with_floats(defaults))

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        raise NotImplementedError

    @property
    def learning_rates(self) -> list[Tensor]:
        """α of each group after the last step, copied: 0-d, or (tensors,) for granularity ``"tensor"``."""
        values = (group["lr"] for group in self.param_groups)
        return [
            lr.detach().clone()
            if isinstance(lr, Tensor)
            else torch.tensor(lr, dtype=torch.float64, device="cpu")
            for lr in values
        ]

    @property
    def hypergradients(self) -> list[Tensor]:
        """h of each group at the last step, copied, in the shape of its α; 0 before it, and for a fixed α."""
        return [
            torch.zeros((), dtype=torch.float32, device="cpu")
            if group["lop"] is None
            else group["hypergradient"].clone()
            for group in self.param_groups
        ]

    @property
    def schedule(self) -> Schedule:
        """What to give a scheduler of torch in place of this optimizer, for a schedule that multiplies α."""
        if "_schedule" not in self.__dict__:
            self._schedule = Schedule(self)
        return self._schedule

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # GradScaler then leaves unscaling and skipping to step, which needs no answer from the device.
        return all(group["fused"] for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with options of its own; what it leaves out comes from the defaults.

        Raises:
            ValueError: for an option that is unknown or out of range.
        """
        param_group = _validation.with_floats(param_group)
        _validation.check(self.defaults | param_group)
        super().add_param_group(param_group)
        try:
            _validation.check_params(param_group)
            _param_groups.settle(param_group)
        except ValueError:
            self.param_groups.pop()
            raise
        self._forget_settings()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Learn α, then move the parameters by it.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, if there is one.
        """
        if not torch.compiler.is_compiling():
            self._check_use()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _check_use(self) -> None:
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            for group in self.param_groups:
                if not (group.get("capturable", True) or group["fused"]):
                    raise RuntimeError(
                        f"a CUDA graph cannot capture what {type(self).__name__} counts on the host: "
                        "give capturable=True"
                    )
        # A scheduler puts a step of its own into the instance.
        if hasattr(self.__dict__.get("step"), "_wrapped_by_lr_sched") and "_warned" not in self.__dict__:
            self._warned = True
            if any(group["lop"] is not None for group in self.param_groups):
                warnings.warn(
                    "a scheduler was given an optimizer that learns its learning rate, and will write over "
                    "what it learns: give the scheduler optimizer.schedule, and it will multiply it",
                    stacklevel=4,
                )

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = group["params"]
        if not params:
            return
        grads = [param.grad for param in params]
        settings = self._settings_of(group)
        learned = settings.rate is not None
        if not learned and not isinstance(group["lr"], float | Tensor):
            group["lr"] = as_float("lr", group["lr"])
        elif learned and not _param_groups.is_settled(group):
            _param_groups.settle(group)
        found_inf, states = getattr(self, "found_inf", None), self.state
        state = functional.State(
            group["lr"],
            group["lop_state"] if learned else {},
            [
                states.get(param, {}) if grad is None else states[param]
                for param, grad in zip(params, grads, strict=True)
            ],
            group.get("moves", {}),
            group["hypergradient"] if learned else None,
            settings.kernel,
        )
        try:
            h = functional.update(
                params,
                grads,
                state,
                settings.direction,
                settings.rate,
                settings.options,
                schedule=group.get("lr_factor"),
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=found_inf,
            )
        except (RuntimeError, ValueError):
            index = [one is group for one in self.param_groups].index(True)
            check_shapes(index, group, state.params)
            raise
        settings.kernel = state.kernel
        if bool(state.moves) != ("moves" in group):
            if state.moves:
                group["moves"] = state.moves
            else:
                del group["moves"]
        if h is not None and h is not state.h:
            # In place, so that a captured or compiled step writes where it is read.
            kept = group["hypergradient"]
            kept.copy_(h if found_inf is None else torch.where(found_inf.to(h.device) != 0, kept, h))

    def _settings_of(self, group: dict[str, Any]) -> _param_groups.Settings:
        """Read the group's options, or return what was read, if that holds."""
        if torch.compiler.is_compiling():
            return _param_groups.Settings(group, self._option_names, self._direction)
        settings = self._settings.get(id(group))
        if settings is None or not settings.hold(group):
            kernel = None if settings is None else settings.kernel
            settings = _param_groups.Settings(group, self._option_names, self._direction)
            settings.kernel = kernel
            self._settings[id(group)] = settings
        return settings

    def _forget_settings(self) -> None:
        self._settings: dict[int, _param_groups.Settings] = {}
        self._option_names = [name for name in self.defaults if name != "lr"]

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot: unlike torch's, it does not change as training goes on."""
        return copy.deepcopy(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a snapshot, which stays as it is.

        One of torch.optim.SGD or Adam will do: α starts at its ``lr``.

        Raises:
            ValueError: if a state has another shape than its parameter; nothing is loaded.
        """
        super().load_state_dict(copy.deepcopy(state_dict))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict, deepcopy and unpickling all end here, the first with nothing but what it loads.
        if "defaults" not in state:
            for index, group in enumerate(state["param_groups"]):
                check_shapes(
                    index, self.defaults | group, [state["state"].get(p, {}) for p in group["params"]]
                )
        super().__setstate__(state)
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            _param_groups.settle(group)
            on_device = group.get("capturable") or group["fused"]
            for param in group["params"]:
                if "step" in self.state.get(param, {}):
                    # torch puts it where its own optimizers would have it.
                    step = self.state[param]["step"]
                    self.state[param]["step"] = torch.as_tensor(
                        step, dtype=torch.float32, device=param.device if on_device else "cpu"
                    )
        self._forget_settings()
