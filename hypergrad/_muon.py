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
    matrices too, to AdamW: put them into an optimizer of their own.

    Args:
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
            None may be sharded over ranks.
        lr: The first learning rate α₀, as in ``hypergrad.SGD``. Default 1e-3.
        momentum: The momentum μ of matrices, at least 0. Default 0.95.
        nesterov: Use Nesterov momentum instead of a heavy ball. Default ``True``.
        betas: β₁ and β₂ of the other tensors, each at least 0 and below 1. Default (0.9, 0.95).
        eps: ε of the other tensors. Default 1e-10.
        weight_decay: The weight decay λ. α multiplies it, and h counts it. Default 0.1.
        lop: As in ``hypergrad.SGD``, and so are all other options.
        rule: See there.
        hypergrad_lr: See there. By default 0.01 for the default rule and lop.
        lop_momentum: See there.
        lop_betas: See there.
        lop_eps: See there.
        granularity: See there.
        trace_decay: See there.
        max_relative_step: See there.
        first_relative_step: See there.
        lr_bounds: See there.
        maximize: See there.
        foreach: See there.
        fused: ``True`` is refused: neither torch nor ``hypergrad.kernels`` has a kernel.
        capturable: Count the steps on the parameters' device, so that a CUDA graph can capture the step.
        differentiable: See there.

    Raises:
        ValueError: If an option is unknown, out of range or not a number, or a parameter is sharded.
        RuntimeError: From ``step``, for a sparse gradient.

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
        """Add a parameter group, as in ``hypergrad.SGD``; none of its parameters may be sharded."""
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
