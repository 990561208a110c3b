"""The optimizers Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import directions
from hypergrad._base import HypergradientOptimizer, options_of
from hypergrad._numbers import Number


class Adam(HypergradientOptimizer):
    """Implement Adam that learns its learning rate α from the hypergradient h.

        h_t = −⟨g_t, u_{t−1}⟩                   the slope of the loss along the last step; u_0 = 0
        α_t = lop(α_{t−1}, h_t)                 as in hypergrad.SGD
        m ← β₁m + (1−β₁)g_t;  v ← β₂v + (1−β₂)g_t²
        u_t = m̂ / (√v̂ + ε)
        θ_t = θ_{t−1} − α_t u_t

    With ``lop=None`` α is fixed, and the parameters move as with ``torch.optim.Adam``. A trace needs a
    buffer of the parameters' size. With ``trace_decay=0`` a learned α needs no memory beyond Adam's own: a
    step computes u_{t−1} from the moments before g_t moves them.

    ``hypergrad.SGD`` describes all options in full. Groups, the learned ``param_groups[i]["lr"]``, schedules,
    parameters without a gradient and the types of numbers are as there.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
        lr: The first learning rate α₀, a number or a tensor as in ``hypergrad.SGD``. Default 1e-3.
        betas: β₁ and β₂ of the parameters' moments, each at least 0 and below 1. Default (0.9, 0.999).
        eps: ε of the parameters' direction, at least 0. Default 1e-8.
        weight_decay: The weight decay λ, at least 0. A step adds λθ to g before everything else, unless
            ``decoupled_weight_decay`` is set. Default 0.
        lop: The optimizer of α, a name in ``hypergrad.rates.RATE_RULES``. ``None`` keeps α fixed. Default
            ``"sgdn"``.
        rule: How the lop moves α: ``"cosine"``, ``"multiplicative"``, ``"additive"`` or
            ``"additive-cosine"``. Default ``"cosine"``.
        hypergrad_lr: The learning rate β of α, at least 0. ``None``, the default, takes
            ``hypergrad.default_hypergrad_lr``: 0.02 for the default rule and lop, and 1e-7 for
            ``rule="additive"``, since Adam's u has entries near ±1, so h is large.
        lop_momentum: μ of lop ``"sgdn"``, at least 0 and below 1. Default 0.9.
        lop_betas: β₁ and β₂ of lop ``"adam"``, by default (0.9, 0.999), or ``"lion"``, (0.9, 0.99).
        lop_eps: ε of lops ``"adam"`` and ``"adagrad"``, above 0. Default 1e-8.
        granularity: ``"group"``, the default, learns one α per parameter group, ``"tensor"`` one per
            parameter. ``"released"`` applies the lop to a group's α once per parameter.
        trace_decay: γ, at least 0 and below 1: how many steps h looks back, at 0 only the last one. ``None``,
            the default, takes the rule's: 0.99 for ``"cosine"``, else 0.
        max_relative_step: The largest norm of a step, relative to ‖θ‖, above 0. ``None``, the default, takes
            the rule's: 0.1 for ``"cosine"``, else no limit.
        first_relative_step: The smallest and the largest norm of the first step, relative to ‖θ‖. ``None``,
            the default, takes the rule's: (0.025, 0.025) for ``"cosine"``, else no limits.
        lr_bounds: The smallest and the largest α. ``None``, the default, sets no bounds.
        decoupled_weight_decay: Add λθ to u instead of g, as ``hypergrad.AdamW`` does. Default ``False``.
        maximize: Ascend instead of descend. Default ``False``.
        foreach: ``True`` makes one call for all tensors, ``False`` one for each. ``None``, the default,
            chooses the faster.
        fused: ``True`` takes a step by ``hypergrad.kernels`` or torch's fused kernels, ``False`` by neither.
            ``None``, the default, takes the kernels for CPUs where it can.
        capturable: Count the steps on the parameters' device, so that a CUDA graph can capture the step.
            Default ``False``.
        differentiable: Must be ``False``, the default: a step changes α in place.

    Raises:
        ValueError: An option is unknown, out of range or not a number.
        RuntimeError: From ``step``: a gradient is sparse.

    References:
        The direction is Algorithm 1 of D. P. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization",
        ICLR 2015, https://arxiv.org/abs/1412.6980, with ε as in ``torch.optim.Adam``. Decoupled weight decay
        is that of I. Loshchilov and F. Hutter, ICLR 2019, https://arxiv.org/abs/1711.05101. Lop ``"sgd"``
        gives Adam-HD of Baydin et al. 2018, https://arxiv.org/abs/1703.04782. Lops ``"sgdn"`` and ``"adam"``
        are those of Mittal 2019.

    Example:
        >>> import torch
        >>> import hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = hypergrad.Adam(model.parameters())
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 3)).square().mean().backward()
        ...     optimizer.step()
        >>> -1 <= float(optimizer.hypergradients[0]) <= 1  # a cosine
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Tensor | Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
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
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, options_of(locals()))

    def _op(self, group: Mapping[str, Any]) -> str:
        return "adam"

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        on_device = bool(group["capturable"] or group["fused"])
        return directions.Adam(tuple(group["betas"]), group["eps"], on_device)


class AdamW(Adam):
    """Implement Adam with decoupled weight decay that learns its learning rate α from the hypergradient h.

        h_t = −⟨g_t, d_{t−1}⟩                   the slope of the loss along the last step; d_0 = 0
        α_t = lop(α_{t−1}, h_t)                 as in hypergrad.SGD
        m ← β₁m + (1−β₁)g_t;  v ← β₂v + (1−β₂)g_t²
        d_t = m̂ / (√v̂ + ε) + λθ_{t−1}
        θ_t = θ_{t−1} − α_t d_t

    It is ``hypergrad.Adam`` with ``decoupled_weight_decay=True`` and another default λ. With ``lop=None`` the
    parameters move as with ``torch.optim.AdamW``. ``hypergrad.SGD`` describes all options in full.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
        lr: The first learning rate α₀, a number or a tensor as in ``hypergrad.SGD``. Default 1e-3.
        betas: β₁ and β₂ of the parameters' moments, each at least 0 and below 1. Default (0.9, 0.999).
        eps: ε of the parameters' direction, at least 0. Default 1e-8.
        weight_decay: The weight decay λ, at least 0. α multiplies it, and h counts it. Default 0.01.
        lop: The optimizer of α, a name in ``hypergrad.rates.RATE_RULES``. ``None`` keeps α fixed. Default
            ``"sgdn"``.
        rule: How the lop moves α: ``"cosine"``, ``"multiplicative"``, ``"additive"`` or
            ``"additive-cosine"``. Default ``"cosine"``.
        hypergrad_lr: The learning rate β of α, at least 0. ``None``, the default, takes
            ``hypergrad.default_hypergrad_lr``: 0.02 for the default rule and lop.
        lop_momentum: μ of lop ``"sgdn"``, at least 0 and below 1. Default 0.9.
        lop_betas: β₁ and β₂ of lop ``"adam"``, by default (0.9, 0.999), or ``"lion"``, (0.9, 0.99).
        lop_eps: ε of lops ``"adam"`` and ``"adagrad"``, above 0. Default 1e-8.
        granularity: ``"group"``, the default, learns one α per parameter group, ``"tensor"`` one per
            parameter. ``"released"`` applies the lop to a group's α once per parameter.
        trace_decay: γ, at least 0 and below 1: how many steps h looks back, at 0 only the last one. ``None``,
            the default, takes the rule's: 0.99 for ``"cosine"``, else 0.
        max_relative_step: The largest norm of a step, relative to ‖θ‖, above 0. ``None``, the default, takes
            the rule's: 0.1 for ``"cosine"``, else no limit.
        first_relative_step: The smallest and the largest norm of the first step, relative to ‖θ‖. ``None``,
            the default, takes the rule's: (0.025, 0.025) for ``"cosine"``, else no limits.
        lr_bounds: The smallest and the largest α. ``None``, the default, sets no bounds.
        maximize: Ascend instead of descend. Default ``False``.
        foreach: ``True`` makes one call for all tensors, ``False`` one for each. ``None``, the default,
            chooses the faster.
        fused: ``True`` takes a step by ``hypergrad.kernels`` or torch's fused kernels, ``False`` by neither.
            ``None``, the default, takes the kernels for CPUs where it can.
        capturable: Count the steps on the parameters' device, so that a CUDA graph can capture the step.
            Default ``False``.
        differentiable: Must be ``False``, the default: a step changes α in place.

    Raises:
        ValueError: An option is unknown, out of range or not a number.
        RuntimeError: From ``step``: a gradient is sparse.

    References:
        I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019,
        https://arxiv.org/abs/1711.05101.

    Example:
        >>> import torch
        >>> import hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = hypergrad.AdamW(model.parameters())
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(8, 3)).square().mean().backward()
        ...     optimizer.step()
        >>> bool(optimizer.learning_rates[0] > 0)
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: Tensor | Number = 1e-3,
        betas: tuple[Number, Number] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 1e-2,
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
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        options = options_of(locals()) | {"decoupled_weight_decay": True}
        super(Adam, self).__init__(params, options)

    def _op(self, group: Mapping[str, Any]) -> str:
        return "adamw"
