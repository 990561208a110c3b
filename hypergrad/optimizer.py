"""The torch.optim contract around ``hypergrad.functional``: SGD, Adam, and the twelve by name."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import directions, functional, options, rates

NAMES: tuple[str, ...] = tuple(
    op if lop is None else f"{op}-{lop}" for op in options.OPS for lop in options.LOPS
)
"""``op`` for a fixed learning rate, ``op-lop`` for a learned one."""


class _Hypergradient(torch.optim.Optimizer):
    """What the two optimizers share. Subclasses name their direction."""

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        raise NotImplementedError

    @property
    def learning_rates(self) -> list[Tensor]:
        """α of each group after the last step, copied: 0-d, or (tensors,) for granularity ``"tensor"``."""
        values = (group["lr"] for group in self.param_groups)
        return [
            lr.detach().clone() if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64)
            for lr in values
        ]

    @property
    def hypergradients(self) -> list[Tensor]:
        """h of each group at the last step, in the shape of its α; 0 before it, and for a fixed α."""
        return [
            torch.zeros(()) if group["lop"] is None else group["hypergradient"] for group in self.param_groups
        ]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group with options of its own; what it leaves out comes from the defaults.

        Raises:
            ValueError: for an option that is unknown or out of range.
        """
        options.check(self.defaults | param_group)
        super().add_param_group(param_group)
        try:
            options.check_params(param_group)
            _settle(param_group)
        except ValueError:
            self.param_groups.pop()
            raise

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
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = group["params"]
        if not params:
            return
        grads = [param.grad for param in params]
        if any(grad is not None and grad.layout != torch.strided for grad in grads):
            raise RuntimeError(
                f"{type(self).__name__} takes no sparse gradients: give the layer sparse=False"
            )
        rate = _rate(group)
        if rate is not None and not _settled(group):
            _settle(group)
        state = functional.State(
            group["lr"],
            group.get("lop_state", {}),
            [{} if grad is None else self.state[param] for param, grad in zip(params, grads, strict=True)],
        )
        h = functional.update(
            params,
            grads,
            state,
            self._direction(group),
            rate,
            hypergrad_lr=group["hypergrad_lr"],
            weight_decay=group["weight_decay"],
            maximize=group["maximize"],
            granularity=group["granularity"],
            foreach=group["foreach"],
            fused=bool(group["fused"]),
        )
        if h is not None:
            group["hypergradient"] = h

    def state_dict(self) -> dict[str, Any]:
        """Return a snapshot: unlike torch's, it does not change as training goes on."""
        return copy.deepcopy(super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a snapshot, which stays as it is.

        One of torch.optim.SGD or Adam will do: α starts at its ``lr``.
        """
        super().load_state_dict(copy.deepcopy(state_dict))

    def __setstate__(self, state: dict[str, Any]) -> None:
        # load_state_dict, deepcopy and unpickling all end here.
        super().__setstate__(state)
        for group in self.param_groups:
            for key, default in self.defaults.items():
                group.setdefault(key, default)
            _settle(group)
            for param in group["params"]:
                if "step" in self.state.get(param, {}):
                    # torch moves it to the device of a fused group.
                    self.state[param]["step"] = self.state[param]["step"].cpu()


class SGD(_Hypergradient):
    """Stochastic gradient descent, with or without momentum, that learns its learning rate α.

    .. code-block:: text

        h_t = −⟨g_t, u_{t−1}⟩                   ∂L_t/∂α at the last step's move; u_0 = 0
        α_t = α_{t−1} − β h_t                   lop "sgd"
              v ← μv + h_t;  α − β(h_t + μv)    lop "sgdn"
              α − β m̂/(√v̂ + ε)                  lop "adam": m, v the moments of h
        u_t = g_t                               momentum 0
              v ← μv + g_t;  v                  momentum μ
              v ← μv + g_t;  g_t + μv           momentum μ, nesterov
        θ_t = θ_{t−1} − α_t u_t

    Lop ``"sgd"`` is hypergradient descent: Baydin et al., "Online Learning Rate Adaptation with Hypergradient
    Descent", ICLR 2018, arXiv:1703.04782, SGD-HD and SGDN-HD. Lops ``"sgdn"`` and ``"adam"`` are Algorithms 1
    and 2 of H. Mittal, "Hypergradient based optimization methods", 2019. With ``lop=None`` the parameters
    move as with ``torch.optim.SGD``.

    Args:
        params: parameters, (name, parameter) pairs or parameter groups, as for torch.optim.
        lr: α₀.
        momentum: μ of the parameters; there is no dampening.
        nesterov: Nesterov momentum instead of a heavy ball; needs a momentum.
        weight_decay: coupled: ``weight_decay`` × θ is added to g before everything.
        lop: how α is learned: ``"sgd"``, ``"sgdn"``, ``"adam"``, or ``None`` for a fixed α.
        hypergrad_lr: β, the learning rate of α.
        lop_momentum: μ of lop ``"sgdn"``.
        lop_betas: β₁ and β₂ of lop ``"adam"``.
        lop_eps: ε of lop ``"adam"``; positive, since h_1 = 0.
        granularity: ``"group"``, one α per parameter group; ``"tensor"``, one per parameter tensor;
            ``"released"``, one per group that the rule moves once per tensor, with a state per tensor, as the
            code released with Mittal 2019 does for Adam.
        maximize: climb instead of descend.
        foreach: ``True`` makes one call for all tensors, ``False`` goes tensor by tensor, which needs less
            memory at a time; ``None`` chooses the faster.
        fused: ``True`` lets torch's fused kernels move the parameters; h stays a pass of its own. Each group
            needs parameters of one floating-point dtype on one device.

    Every option may differ between parameter groups. A learned α lies in ``param_groups[i]["lr"]``, a tensor
    that changes in place: 0-d, or (tensors,) for ``"tensor"``; in the parameters' dtype but at least float32.
    A scheduler of torch that sets the learning rate overwrites what was learned; one that multiplies scales
    it. With lop ``"sgd"`` and ``"sgdn"`` α may fall below zero. A parameter without a gradient stays put,
    state included, and adds 0 to its group's h.

    Raises:
        ValueError: for an option that is unknown or out of range.
        RuntimeError: from ``step``, for a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        lop: str | None = "sgd",
        hypergrad_lr: float = 1e-3,
        lop_momentum: float = 0.9,
        lop_betas: tuple[float, float] = (0.9, 0.999),
        lop_eps: float = 1e-8,
        granularity: str = "group",
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "lop": lop,
            "hypergrad_lr": hypergrad_lr,
            "lop_momentum": lop_momentum,
            "lop_betas": lop_betas,
            "lop_eps": lop_eps,
            "granularity": granularity,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        if not group["momentum"]:
            return directions.SGD()
        return directions.Momentum(group["momentum"], group["nesterov"])


class Adam(_Hypergradient):
    """Adam that learns its learning rate α.

    .. code-block:: text

        h_t = −⟨g_t, u_{t−1}⟩                   ∂L_t/∂α at the last step's move; u_0 = 0
        α_t = lop(α_{t−1}, h_t)                 as in hypergrad.SGD
        m ← β₁m + (1−β₁)g_t;  v ← β₂v + (1−β₂)g_t²
        u_t = m̂ / (√v̂ + ε)
        θ_t = θ_{t−1} − α_t u_t

    The direction is Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1, with ε
    as in ``torch.optim.Adam``, whose moves ``lop=None`` gives. Lop ``"sgd"`` is Adam-HD of Baydin et al.
    2018, lops ``"sgdn"`` and ``"adam"`` are Mittal 2019. u_{t−1} is rebuilt from the moments: a learned α
    takes no memory beyond Adam's own.

    Args:
        params: parameters, (name, parameter) pairs or parameter groups, as for torch.optim.
        lr: α₀.
        betas: β₁ and β₂ of the parameters' moments.
        eps: ε of the parameters' direction.
        weight_decay: coupled (L2, not AdamW): ``weight_decay`` × θ is added to g before everything.
        lop: how α is learned: ``"sgd"``, ``"sgdn"``, ``"adam"``, or ``None`` for a fixed α.
        hypergrad_lr: β, the learning rate of α; Adam's directions are large, so its β is small.
        lop_momentum, lop_betas, lop_eps, granularity, maximize, foreach, fused: as in ``hypergrad.SGD``.

    Groups, the learned ``param_groups[i]["lr"]`` and errors are as in ``hypergrad.SGD``.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        lop: str | None = "sgd",
        hypergrad_lr: float = 1e-7,
        lop_momentum: float = 0.9,
        lop_betas: tuple[float, float] = (0.9, 0.999),
        lop_eps: float = 1e-8,
        granularity: str = "group",
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "lop": lop,
            "hypergrad_lr": hypergrad_lr,
            "lop_momentum": lop_momentum,
            "lop_betas": lop_betas,
            "lop_eps": lop_eps,
            "granularity": granularity,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        return directions.Adam(group["betas"], group["eps"])


def create(name: str, params: ParamsT, **arguments: Any) -> SGD | Adam:
    """Make one of the twelve optimizers in ``NAMES``.

    Args:
        name: ``"{op}-{lop}"``, such as ``"adam-adam"``, or ``"{op}"`` for a fixed learning rate. Op ``sgdn``
            is ``SGD`` with ``momentum=0.9, nesterov=True`` unless ``arguments`` say otherwise.
        params: as for ``SGD`` and ``Adam``.
        **arguments: further arguments of ``SGD`` or ``Adam``, ``lop`` apart.

    Raises:
        ValueError: for a name that is not in ``NAMES``, or an option out of range.
        TypeError: for an option that the optimizer does not have.
    """
    if name not in NAMES:
        nearest = difflib.get_close_matches(str(name).lower().replace("_", "-"), NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(f"no optimizer {name!r}: did you mean {nearest!r}? There are {', '.join(NAMES)}")
    op, _, lop = name.partition("-")
    if op == "adam":
        return Adam(params, lop=lop or None, **arguments)
    if op == "sgdn":
        arguments = {"momentum": 0.9, "nesterov": True} | arguments
    return SGD(params, lop=lop or None, **arguments)


def _rate(group: dict[str, Any]) -> rates.Rate | None:
    match group["lop"]:
        case "sgd":
            return rates.SGD()
        case "sgdn":
            return rates.SGDN(group["lop_momentum"])
        case "adam":
            return rates.Adam(group["lop_betas"], group["lop_eps"])
    return None


def _settled(group: dict[str, Any]) -> bool:
    """Whether α is where and what ``_settle`` left it: users move models and assign learning rates."""
    alpha = group["lr"]
    return (
        isinstance(alpha, Tensor)
        and alpha.device == group["params"][0].device
        and alpha.shape == group["hypergradient"].shape
    )


def _settle(group: dict[str, Any]) -> None:
    """Make α a tensor of the group's own, and its rule's state and h alike in device and dtype."""
    rate = _rate(group)
    if rate is None or not group["params"]:
        return
    fresh = functional.init(group["params"], rate, lr=group["lr"], granularity=group["granularity"])
    assert isinstance(fresh.alpha, Tensor)
    kept = {name: value.to(fresh.alpha) for name, value in group.get("lop_state", {}).items()}
    group["lr"] = fresh.alpha
    group["lop_state"] = fresh.rate | kept
    group["hypergradient"] = group.get("hypergradient", torch.zeros_like(fresh.alpha)).to(fresh.alpha)
