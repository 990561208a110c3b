"""The optimizer Muon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from hypergrad import directions
from hypergrad._base import HypergradientOptimizer, options_of
from hypergrad._numbers import Number
from hypergrad._tensor_views import is_sharded


class Muon(HypergradientOptimizer):
    """Implement Muon that learns its learning rate α from the hypergradient h.

        h_t = −⟨g_t, d_{t−1}⟩                   the slope of the loss along the last step; d_0 = 0
        α_t = lop(α_{t−1}, h_t)                 as in hypergrad.SGD
        v ← μv + g_t                            of a matrix
        u_t = 0.2 √max(rows, columns) · NS(g_t + μv)
        u_t = m̂ / (√v̂ + ε)                      of any other tensor, as in hypergrad.Adam
        θ_t = θ_{t−1} − α_t d_t,  d_t = u_t + λθ_{t−1}

    NS takes the singular values of a matrix near 1, by five Newton–Schulz steps. The factor makes u as large
    as Adam's, so that one α serves all tensors. With ``lop=None`` a matrix moves as with ``torch.optim.Muon``
    and ``adjust_lr_fn="match_rms_adamw"``. Muon's author gives embeddings and the last layer, which are
    matrices too, to AdamW: put them into an optimizer of their own. ``hypergrad.SGD`` describes all options
    in full.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
            No parameter may be sharded over ranks.
        lr: The first learning rate α₀, a number or a tensor as in ``hypergrad.SGD``. Default 1e-3.
        momentum: The momentum μ of matrices, at least 0. Default 0.95.
        nesterov: Use Nesterov momentum instead of a heavy ball. Default ``True``.
        betas: β₁ and β₂ of the other tensors, each at least 0 and below 1. Default (0.9, 0.95).
        eps: ε of the other tensors, at least 0. Default 1e-10.
        weight_decay: The weight decay λ, at least 0. α multiplies it, and h counts it. Default 0.1.
        lop: The optimizer of α, a name in ``hypergrad.rates.RATE_RULES``. ``None`` keeps α fixed. Default
            ``"sgdn"``.
        rule: How the lop moves α: ``"cosine"``, ``"multiplicative"``, ``"additive"`` or
            ``"additive-cosine"``. Default ``"cosine"``.
        hypergrad_lr: The learning rate β of α, at least 0. ``None``, the default, takes
            ``hypergrad.default_hypergrad_lr``: 0.01 for the default rule and lop.
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
        fused: Must not be ``True``: neither torch nor ``hypergrad.kernels`` has a kernel. Default ``None``.
        capturable: Count the steps on the parameters' device, so that a CUDA graph can capture the step.
            Default ``False``.
        differentiable: Must be ``False``, the default: a step changes α in place.

    Raises:
        ValueError: An option is unknown, out of range or not a number, or a parameter is sharded.
        RuntimeError: From ``step``: a gradient is sparse.

    References:
        K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
        https://kellerjordan.github.io/posts/muon/. The factor is that of J. Liu et al., "Muon is Scalable for
        LLM Training", 2025, https://arxiv.org/abs/2502.16982.

    Example:
        >>> import torch
        >>> import hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = hypergrad.Muon(model.parameters())
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
        momentum: Number = 0.95,
        nesterov: bool = True,
        betas: tuple[Number, Number] = (0.9, 0.95),
        eps: Number = 1e-10,
        weight_decay: Number = 0.1,
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
        super().__init__(params, options_of(locals()) | {"decoupled_weight_decay": True})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group.

        Args:
            param_group: The group's ``"params"`` and the options in which it differs from the defaults.

        Raises:
            ValueError: An option is unknown, out of range or not a number, ``fused`` is true, or a parameter
                is sharded. The group is not added then.
        """
        if (self.defaults | param_group)["fused"]:
            raise ValueError("fused=True is not supported: there is no kernel for Muon")
        super().add_param_group(param_group)
        if any(map(is_sharded, param_group["params"])):
            self.param_groups.pop()
            raise ValueError("Muon needs whole matrices: it takes no sharded parameters")

    def _op(self, group: Mapping[str, Any]) -> str:
        return "muon"

    def _direction(self, group: dict[str, Any]) -> directions.Direction:
        rest = directions.Adam(tuple(group["betas"]), group["eps"], bool(group["capturable"]))
        return directions.Muon(group["momentum"], group["nesterov"], rest)
