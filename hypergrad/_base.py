"""The base class of the optimizers: the interface of ``torch.optim`` around ``hypergrad.functional``."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import _param_groups, _rules, _step_counts, _validation, directions, functional
from hypergrad._numbers import as_float
from hypergrad._scheduler_view import Schedule
from hypergrad._state_checks import check_shapes


def options_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that are options of a parameter group."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


def _warn_caller(message: str) -> None:
    """Warn, and attribute the warning to the line that called this package or torch."""
    depth, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith(("hypergrad.", "torch.")):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, stacklevel=depth)


class HypergradientOptimizer(torch.optim.Optimizer):
    """Implement the interface of ``torch.optim.Optimizer`` for a learned learning rate.

    A subclass implements ``_op`` and ``_direction``.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups.
        defaults: The options, by name, of groups that do not give their own.

    Raises:
        ValueError: An option is unknown, out of range or not a number.
    """

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, _validation.with_floats(defaults))

    def _op(self, group: Mapping[str, Any]) -> str:
        """Return the name of a group's op, as in ``hypergrad.NAMES``."""
        raise NotImplementedError

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        """Return the op of a group."""
        raise NotImplementedError

    def _default_beta(self, options: Mapping[str, Any]) -> float:
        """Return the β of a group that gives none: 0 if α is fixed."""
        if options["lop"] is None:
            return 0.0
        return _rules.default_hypergrad_lr(options["rule"], self._op(options), options["lop"])

    @property
    def learning_rates(self) -> list[Tensor]:
        """Copies of α after the last step, one per group: 0-d, or (T,) for granularity ``"tensor"``.

        A fixed α that is a number becomes a float64 tensor on the CPU.
        """
        values = (group["lr"] for group in self.param_groups)
        return [
            lr.detach().clone()
            if isinstance(lr, Tensor)
            else torch.tensor(lr, dtype=torch.float64, device="cpu")
            for lr in values
        ]

    @property
    def hypergradients(self) -> list[Tensor]:
        """Copies of h of the last step, one per group in α's shape: 0 before a step and for a fixed α."""
        return [
            torch.zeros((), dtype=torch.float32, device="cpu")
            if group["lop"] is None
            else group["hypergradient"].clone()
            for group in self.param_groups
        ]

    @property
    def schedule(self) -> Schedule:
        """A view of this optimizer to give to a scheduler of torch, which then multiplies the learned α."""
        if "_schedule" not in self.__dict__:
            self._schedule = Schedule(self)
        return self._schedule

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # GradScaler then leaves unscaling and skipping to step, which needs no answer from the device.
        return all(group["fused"] for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group.

        Args:
            param_group: The group's ``"params"`` and the options in which it differs from the defaults.

        Raises:
            ValueError: An option is unknown, out of range or not a number. The group is not added then.
        """
        param_group = _validation.with_floats(param_group)
        options = self.defaults | param_group
        _validation.check(options)
        own = _rules.default_step(options)
        param_group |= {name: value for name, value in own.items() if options[name] is None}
        if options["hypergrad_lr"] is None:
            param_group["hypergrad_lr"] = self._default_beta(options)
        elif options["lop"] is not None:
            self._warn_of_beta(options)
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
            closure: A function that evaluates the model again and returns the loss. Default: ``None``.

        Returns:
            The closure's loss, or ``None`` without a closure.

        Raises:
            RuntimeError: A gradient is sparse, or a CUDA graph cannot capture the step.
            ValueError: A state or gradient has another shape than its parameter, or an option in
                ``param_groups`` is not a number.
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
        """Refuse a step that a CUDA graph cannot capture, and warn of a scheduler that overwrites α."""
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            for group in self.param_groups:
                if not (group.get("capturable", True) or group["fused"]):
                    raise RuntimeError(
                        f"{type(self).__name__} counts its steps on the host, and a CUDA graph cannot "
                        "capture that: give capturable=True"
                    )
        # A scheduler replaces the instance's ``step`` by its own.
        if hasattr(self.__dict__.get("step"), "_wrapped_by_lr_sched") and "_warned" not in self.__dict__:
            self._warned = True
            if any(group["lop"] is not None for group in self.param_groups):
                warnings.warn(
                    "the scheduler will overwrite the learning rate that this optimizer learns: give the "
                    "scheduler optimizer.schedule instead, and it will multiply the learned rate",
                    stacklevel=4,
                )

    def _warn_of_beta(self, options: Mapping[str, Any]) -> None:
        """Warn of a β that hardly moves α or makes it diverge; give each warning once."""
        warned: set[str] = self.__dict__.setdefault("_warned_of_beta", set())
        for message in _rules.mismatches(options, self._op(options)):
            if message not in warned:
                warned.add(message)
                _warn_caller(message)

    def _step_group(self, group: dict[str, Any]) -> None:
        """Take the step of one parameter group."""
        params: list[Tensor] = group["params"]
        if not params:
            return
        grads = [param.grad for param in params]
        settings = self._settings_of(group)
        learned = settings.rate is not None
        if not learned and not isinstance(group["lr"], (float, Tensor)):
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
            # torch's own message names neither the parameter nor the state.
            index = [one is group for one in self.param_groups].index(True)
            check_shapes(index, group, state.params)
            raise
        settings.kernel = state.kernel
        if (len(state.moves) > 0) != ("moves" in group):
            if state.moves:
                group["moves"] = state.moves
            else:
                del group["moves"]
        if h is not None and h is not state.h:
            # In place, so that a captured or compiled step writes to the tensor that others read.
            kept = group["hypergradient"]
            kept.copy_(h if found_inf is None else torch.where(found_inf.to(h.device) != 0, kept, h))

    def _settings_of(self, group: dict[str, Any]) -> _param_groups.Settings:
        """Return the group's settings. Read its options again only if one has changed."""
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
        """Drop the settings that ``step`` keeps for the next step."""
        self._settings: dict[int, _param_groups.Settings] = {}
        self._option_names = [name for name in self.defaults if name != "lr"]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state, which the next step does not change. Torch returns references."""
        return copy.deepcopy(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state. ``state_dict`` itself does not change.

        Args:
            state_dict: A state of this class, or of ``torch.optim.SGD`` or ``Adam``, with whose ``lr`` α
                then starts.

        Raises:
            ValueError: A tensor of the state has another shape than its parameter. The optimizer does not
                change then.
        """
        super().load_state_dict(copy.deepcopy(state_dict))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict, deepcopy and unpickling call this. load_state_dict passes no defaults.
        for options in (*state["param_groups"], state.get("defaults", {})):
            _rules.from_version_0_1(options)
        if "defaults" not in state:
            for index, group in enumerate(state["param_groups"]):
                check_shapes(
                    index, self.defaults | group, [state["state"].get(p, {}) for p in group["params"]]
                )
        super().__setstate__(state)
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            if group["hypergrad_lr"] is None:
                group["hypergrad_lr"] = self._default_beta(group)
            own = _rules.default_step(group)
            group |= {name: value for name, value in own.items() if group[name] is None}
            _param_groups.settle(group)
            on_device = group.get("capturable") or group["fused"]
            for param in group["params"]:
                if "step" in self.state.get(param, {}):
                    # torch has moved the count to where its own optimizers keep it.
                    step = self.state[param]["step"]
                    self.state[param]["step"] = torch.as_tensor(
                        step, dtype=torch.float32, device=param.device if on_device else "cpu"
                    )
            states = (self.state.get(param, {}) for param in group["params"])
            _step_counts.load([own["step"] for own in states if "step" in own])
        self._forget_settings()
