"""The optimizers: SGD, Adam, and those by name."""

from __future__ import annotations

import difflib
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import _validation, directions
from hypergrad._base import HypergradientOptimizer

NAMES: tuple[str, ...] = tuple(
    op if lop is None else f"{op}-{lop}" for op in _validation.OPS for lop in _validation.LOPS
)
"""``op`` for a fixed learning rate, ``op-lop`` for a learned one."""


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that are options of a parameter group."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


class SGD(HypergradientOptimizer):
    """Stochastic gradient descent, with or without momentum, that learns its learning rate α.

    .. code-block:: text

        h_t = −⟨g_t, u_{t−1}⟩                   ∂L_t/∂α at the last step's move; u_0 = 0
        α_t = α_{t−1} − β h_t                   lop "sgd"
              v ← μv + h_t;  α − β(h_t + μv)    lop "sgdn"
              α − β m̂/(√v̂ + ε)                  lop "adam": m, v the moments of h
              v ← v + h_t²;  α − β h_t/(√v + ε) lop "adagrad"
              α − β sign(β₁m + (1−β₁)h_t)       lop "lion": then m ← β₂m + (1−β₂)h_t
        u_t = g_t                               momentum 0
              v ← μv + g_t;  v                  momentum μ
              v ← μv + g_t;  g_t + μv           momentum μ, nesterov
        θ_t = θ_{t−1} − α_t u_t

    Lop ``"sgd"`` is hypergradient descent: Baydin et al., "Online Learning Rate Adaptation with Hypergradient
    Descent", ICLR 2018, arXiv:1703.04782, SGD-HD and SGDN-HD. Lops ``"sgdn"`` and ``"adam"`` are Algorithms 1
    and 2 of H. Mittal, "Hypergradient based optimization methods", 2019. ``"adagrad"`` (Duchi et al. 2011)
    and ``"lion"`` (Chen et al. 2023) are those optimizers on α. With ``lop=None`` the parameters move as with
    ``torch.optim.SGD``. What any rule can be combined with:

    .. code-block:: text

        multiplicative           α_t = α_{t−1} exp(−β lop(α_{t−1} h_t)): the rule on log α; α stays positive
        normalize                h_t / (‖g_t‖ ‖u_{t−1}‖), a cosine: β carries over between models; with
                                 multiplicative, in log space, the multiplicative rule of Martínez Rubio 2017
        lr_bounds                α_t = min(max(α_t, low), high)
        decoupled_weight_decay   θ_t = θ_{t−1} − α_t d_t, d = u + λθ_{t−1}, and h_t = −⟨g_t, d_{t−1}⟩

    Args:
        params: parameters, (name, parameter) pairs or parameter groups, as for torch.optim.
        lr: α₀.
        momentum: μ of the parameters; there is no dampening.
        nesterov: Nesterov momentum instead of a heavy ball; needs a momentum.
        weight_decay: λ: λθ is added to g before everything.
        lop: how α is learned: ``"sgd"``, ``"sgdn"``, ``"adam"``, ``"adagrad"``, ``"lion"``, or ``None`` for a
            fixed α.
        hypergrad_lr: β, the learning rate of α.
        lop_momentum: μ of lop ``"sgdn"``.
        lop_betas: β₁ and β₂ of lop ``"adam"``, by default (0.9, 0.999), and ``"lion"``, (0.9, 0.99).
        lop_eps: ε of lop ``"adam"`` and ``"adagrad"``; positive, since h_1 = 0.
        granularity: ``"group"``, one α per parameter group; ``"tensor"``, one per parameter tensor;
            ``"released"``, one per group that the rule moves once per tensor, with a state per tensor, as the
            code released with Mittal 2019 does for Adam.
        multiplicative: α is multiplied by what the rule says, not added to; needs a positive ``lr``.
        normalize: h is the cosine of the angle between g_t and −u_{t−1}, over the tensors of one α.
        lr_bounds: the smallest and the largest α; ``None`` sets none.
        decoupled_weight_decay: add λθ to u instead of g, as AdamW does.
        maximize: climb instead of descend.
        foreach: ``True`` makes one call for all tensors, ``False`` goes tensor by tensor, which needs less
            memory at a time; ``None`` chooses the faster.
        fused: a step with a learned α takes two passes over memory, by kernels that the system's C compiler
            makes on first use (``hypergrad.kernels``). ``None`` uses them where there are some, unless
            ``foreach`` is given; ``False`` does not. With ``True``, where there are none, such as on a GPU,
            torch's fused kernels move the parameters and h is a pass of its own; each group then needs
            parameters of one dtype on one device.
        differentiable: refused: a step learns α in place.

    Every option may differ between parameter groups. A learned α lies in ``param_groups[i]["lr"]``, a tensor
    that changes in place: 0-d, or (tensors,) for ``"tensor"``; in the parameters' dtype but at least float32.
    Give schedulers of torch ``optimizer.schedule`` and they multiply the learned α. An additive rule without
    bounds may take α below zero. A parameter without a gradient rests, state included, and adds 0 to its
    group's h in this step and the next. Complex parameters count as pairs of real ones.

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
        lop_betas: tuple[float, float] | None = None,
        lop_eps: float = 1e-8,
        granularity: str = "group",
        multiplicative: bool = False,
        normalize: bool = False,
        lr_bounds: tuple[float, float] | None = None,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, _options(locals()))

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        if not group["momentum"]:
            return directions.SGD()
        return directions.Momentum(group["momentum"], group["nesterov"])


class Adam(HypergradientOptimizer):
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
        weight_decay: λ: λθ is added to g before everything; see ``decoupled_weight_decay`` for AdamW.
        hypergrad_lr: β, the learning rate of α; Adam's directions are large, so its β is small.
        capturable: let a CUDA graph capture the step.
        lop, lop_momentum, lop_betas, lop_eps, granularity, multiplicative, normalize, lr_bounds,
            decoupled_weight_decay, maximize, foreach, fused, differentiable: as in ``hypergrad.SGD``.

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
        lop_betas: tuple[float, float] | None = None,
        lop_eps: float = 1e-8,
        granularity: str = "group",
        multiplicative: bool = False,
        normalize: bool = False,
        lr_bounds: tuple[float, float] | None = None,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, _options(locals()))

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        on_device = bool(group["capturable"] or group["fused"])
        return directions.Adam(tuple(group["betas"]), group["eps"], on_device)


def create(name: str, params: ParamsT, **arguments: Any) -> SGD | Adam:
    """Make one of the optimizers in ``NAMES``.

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
