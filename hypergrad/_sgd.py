"""The optimizer SGD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import directions
from hypergrad._base import HypergradientOptimizer, options_of
from hypergrad._numbers import Number


class SGD(HypergradientOptimizer):
    """Implement SGD, with or without momentum, that learns its learning rate α from the hypergradient h.

        h_t = −⟨g_t, u_{t−1}⟩                   the slope of the loss along the last step; u_0 = 0
        α_t = α_{t−1} − β h_t                   lop "sgd"
              v ← μv + h_t;  α − β(h_t + μv)    lop "sgdn"
              α − β m̂/(√v̂ + ε)                  lop "adam": m, v are the moments of h
              v ← v + h_t²;  α − β h_t/(√v + ε) lop "adagrad"
              α − β sign(β₁m + (1−β₁)h_t)       lop "lion": then m ← β₂m + (1−β₂)h_t
        u_t = g_t                               momentum 0
              v ← μv + g_t;  v                  momentum μ
              v ← μv + g_t;  g_t + μv           momentum μ, nesterov
        θ_t = θ_{t−1} − α_t u_t

    That is ``rule="additive"``, the papers' rule. The default rule moves log α by a cosine, so that you need
    not choose α₀ or β for a model:

        "cosine"            α_t = α_{t−1} exp(−β lop(c_t)),  c_t = h_t / (‖g_t‖ ‖u_{t−1}‖)
        "multiplicative"    α_t = α_{t−1} exp(−β lop(α_{t−1} h_t))
        "additive"          α_t = α_{t−1} − β lop(h_t)
        "additive-cosine"   α_t = α_{t−1} − β lop(c_t)

    With ``lop=None`` α is fixed, and the parameters move as with ``torch.optim.SGD``. You may combine these
    options with any rule:

        trace_decay              h_t = −⟨g_t, z_{t−1}⟩, z_t = γz_{t−1} + u_t, and ‖z‖ in c_t
        max_relative_step        α_t‖u_t‖ ≤ c‖θ_{t−1}‖
        first_relative_step      the same in the first step, from below too
        lr_bounds                α_t = min(max(α_t, low), high)
        decoupled_weight_decay   θ_t = θ_{t−1} − α_t d_t, d = u + λθ_{t−1}, and h_t = −⟨g_t, d_{t−1}⟩

    Each option may differ between parameter groups, and each group learns its own α. A learned α is a tensor
    in ``param_groups[i]["lr"]`` that changes in place, in the parameters' dtype but at least float32. To
    schedule a learned α, give the scheduler ``optimizer.schedule``: it then multiplies α. Without bounds an
    additive rule may take α below zero. A parameter without a gradient rests: it does not move, nor does its
    state, and it adds 0 to its group's h in this step and the next. A complex parameter counts as pairs of
    real numbers.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
        lr: The first learning rate α₀: a number, or a tensor of one element; for granularity ``"tensor"``
            also a tensor with one element per parameter. Default 1e-3. Rule ``"cosine"`` replaces it in the
            first step, unless ``first_relative_step`` says otherwise.
        momentum: The momentum μ of the parameters, at least 0. There is no dampening. Default 0.
        nesterov: Use Nesterov momentum instead of a heavy ball. Needs a momentum above 0. Default ``False``.
        weight_decay: The weight decay λ, at least 0. A step adds λθ to g before everything else. Default 0.
        lop: The optimizer of α, a name in ``hypergrad.rates.RATE_RULES``. ``None`` keeps α fixed. Default
            ``"sgdn"``.
        rule: How the lop moves α: ``"cosine"``, the default, ``"multiplicative"``, ``"additive"`` or
            ``"additive-cosine"``. The norms of a cosine are over the parameters that share an α. A rule
            that moves log α needs an ``lr`` above 0.
        hypergrad_lr: The learning rate β of α, at least 0: a step in log α for ``"cosine"``, in the unit of
            α/h for ``"additive"``. ``None``, the default, takes ``hypergrad.default_hypergrad_lr``: 0.02 for
            the default rule and lop. A β that fits another rule gives a warning.
        lop_momentum: μ of lop ``"sgdn"``, at least 0 and below 1. Default 0.9.
        lop_betas: β₁ and β₂ of lop ``"adam"``, by default (0.9, 0.999), or ``"lion"``, (0.9, 0.99).
        lop_eps: ε of lops ``"adam"`` and ``"adagrad"``, above 0, since h_1 = 0. Default 1e-8.
        granularity: ``"group"``, the default, learns one α per parameter group, ``"tensor"`` one per
            parameter. ``"released"`` learns one per group and applies the lop once per parameter, with a
            state for each, as the code released with Mittal 2019 does for Adam.
        trace_decay: γ of the trace z, at least 0 and below 1: how many steps h looks back, at 0 only the last
            one, at 0.99 about the last hundred. Above 0 it needs a buffer of the parameters' size. ``None``,
            the default, takes the rule's: 0.99 for ``"cosine"``; 0 for the others, for β 0 and for
            granularity ``"released"``, which has no trace.
        max_relative_step: The largest α‖u‖/‖θ‖ of a step, above 0, over the parameters that share an α.
            ``math.inf`` sets no limit. ``None``, the default, takes the rule's: 0.1 for ``"cosine"``, no
            limit for the others.
        first_relative_step: The smallest and the largest α‖u‖/‖θ‖ of the first step: the optimizer moves α₀
            into this range. ``(0, math.inf)`` keeps α₀. ``None``, the default, takes the rule's:
            (0.025, 0.025) for ``"cosine"``, so that α₀ does not matter; the others keep α₀.
        lr_bounds: The smallest and the largest α. ``None``, the default, sets no bounds.
        decoupled_weight_decay: Add λθ to u instead of g, as AdamW does. Default ``False``.
        maximize: Ascend instead of descend. Default ``False``.
        foreach: ``True`` makes one call for all tensors. ``False`` goes tensor by tensor, which needs less
            memory at a time. ``None``, the default, chooses the faster.
        fused: ``None``, the default, takes a step with a learned α in two passes over memory where
            ``hypergrad.kernels`` has a kernel for CPUs, unless ``foreach`` is given. ``False`` never does.
            ``True`` also takes the kernels for GPUs, and where there are none torch's fused kernels, for
            steps without a trace. Each group then needs parameters of one dtype on one device.
        differentiable: Must be ``False``, the default: a step changes α in place.

    A number may be of any type that ``float`` takes, such as a NumPy number.

    Raises:
        ValueError: An option is unknown, out of range or not a number.
        RuntimeError: From ``step``: a gradient is sparse.

    References:
        Lop ``"sgd"`` is hypergradient descent: A. G. Baydin et al., "Online Learning Rate Adaptation with
        Hypergradient Descent", ICLR 2018, https://arxiv.org/abs/1703.04782, there called SGD-HD and SGDN-HD.
        Lops ``"sgdn"`` and ``"adam"`` are Algorithms 1 and 2 of H. Mittal, "Hypergradient based optimization
        methods", 2019. Lops ``"adagrad"`` (J. Duchi et al., 2011,
        https://jmlr.org/papers/v12/duchi11a.html) and ``"lion"`` (X. Chen et al., 2023,
        https://arxiv.org/abs/2302.06675) apply those optimizers to α. Rule ``"cosine"`` with lop ``"sgd"``
        is, in log space, the rule of D. Martínez Rubio, MSc thesis, Oxford 2017.

    Example:
        >>> import torch
        >>> import hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = hypergrad.SGD(model.parameters())
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 3)).square().mean().backward()
        ...     optimizer.step()
        >>> alpha = optimizer.learning_rates[0]  # learned, 0-d
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Tensor | Number = 1e-3,
        momentum: Number = 0.0,
        nesterov: bool = False,
        weight_decay: Number = 0.0,
        *,
        lop: str | None = "sgdn",
        rule: str = "cosine",
        hypergrad_lr: Number | None = None,
        lop_momentum: Number = 0.9,
        lop_betas: tuple[Number, Number] | None = None,
        lop_eps: Number = 1e-8,
        granularity: str = "group",
        trace_decay: Number | None = None,
        max_relative_step: Number | None = None,
        first_relative_step: tuple[Number, Number] | None = None,
        lr_bounds: tuple[Number, Number] | None = None,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, options_of(locals()))

    def _op(self, group: Mapping[str, Any]) -> str:
        return "sgdn" if group["momentum"] else "sgd"

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        if not group["momentum"]:
            return directions.SGD()
        return directions.Momentum(group["momentum"], group["nesterov"])
