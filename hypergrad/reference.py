"""The optimizers in the paper's notation, in slow float64 loops. The tests compare the fast ones with them.

This module shares no code with the fast modules, so an error passes the tests only if both make it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ZERO = torch.zeros((), dtype=torch.float64, device="cpu")


class Reference:
    """An optimizer of one parameter group; make one for each of several groups.

    Algorithms 1 and 2 of H. Mittal, "Hypergradient based optimization methods", 2019, and the options of
    ``hypergrad.SGD``.

    Args:
        name: ``"{op}-{lop}"``, such as ``"adam-adam"``, or ``"{op}"`` for a fixed α.
        theta: The initial parameters θ_0, of any shapes. The optimizer moves float64 copies of them.
        alpha: The first learning rate α_0.
        beta: The learning rate β of α. Default 0.
        weight_decay: The weight decay λ. It is coupled, g + λθ, unless ``decoupled`` is true or the op is
            ``"adamw"`` or ``"muon"``. Default 0.
        decoupled: ``True`` moves θ along d = u + λθ and learns α from that d. Default ``False``.
        granularity: ``"group"``, the default, ``"tensor"`` or ``"released"``.
        rule: ``"multiplicative"`` and ``"cosine"`` move log α, by its hypergradient αh or by the cosine.
            ``"additive-cosine"`` and ``"cosine"`` make h the cosine −⟨g, d⟩ / (‖g‖‖d‖). Default
            ``"additive"``.
        trace_decay: γ of the trace z ← γ(1 − k⁴)z + d, which takes the place of the last d in h; k is the
            cosine of −g and z, or 0 if that is negative. Default 0: z is the last d.
        max_relative_step: The largest α‖d‖/‖θ‖, without the schedule's factor in d. Default ``math.inf``.
        first_relative_step: The smallest and the largest α‖d‖/‖θ‖ as long as z is 0. Default
            ``(0, math.inf)``.
        bounds: The smallest and the largest α. ``None``, the default, sets no bounds.
        nesterov: ``False`` makes ops ``"sgdn"`` and ``"muon"`` heavy balls, u = v. Default ``True``.
        mu: μ of ops ``"sgdn"`` and ``"muon"``. ``None``, the default, means 0.9 and 0.95.
        betas: β₁ and β₂ of ops ``"adam"``, ``"adamw"`` and ``"muon"``. ``None``, the default, means
            (0.9, 0.999), and (0.9, 0.95) for ``"muon"``.
        eps: ε of ops ``"adam"``, ``"adamw"`` and ``"muon"``. ``None``, the default, means 1e-8, and 1e-10 for
            ``"muon"``.
        lop_mu: μ of lop ``"sgdn"``. Default 0.9.
        lop_betas: β₁ and β₂ of lops ``"adam"`` and ``"lion"``. ``None``, the default, means (0.9, 0.999) and
            (0.9, 0.99).
        lop_eps: ε of lops ``"adam"`` and ``"adagrad"``. Default 1e-8.
    """

    def __init__(
        self,
        name: str,
        theta: Sequence[Tensor],
        alpha: float,
        beta: float = 0.0,
        *,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        granularity: str = "group",
        rule: str = "additive",
        trace_decay: float = 0.0,
        max_relative_step: float = math.inf,
        first_relative_step: tuple[float, float] = (0.0, math.inf),
        bounds: tuple[float, float] | None = None,
        nesterov: bool = True,
        mu: float | None = None,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        lop_mu: float = 0.9,
        lop_betas: tuple[float, float] | None = None,
        lop_eps: float = 1e-8,
    ) -> None:
        op, _, lop = name.partition("-")
        if op in ("adamw", "muon"):
            op, decoupled = {"adamw": "adam"}.get(op, op), True
        of_muon = op == "muon"
        mu = mu if mu is not None else 0.95 if of_muon else 0.9
        betas = betas or ((0.9, 0.95) if of_muon else (0.9, 0.999))
        eps = eps if eps is not None else 1e-10 if of_muon else 1e-8
        self.op: dict[str, Any] = {"rule": op, "mu": mu, "betas": betas, "eps": eps, "nesterov": nesterov}
        self.lop: dict[str, Any] = {
            "rule": lop,
            "mu": lop_mu,
            "betas": lop_betas,
            "eps": lop_eps,
            "nesterov": True,
        }
        self.theta = [t.detach().to(torch.float64, copy=True) for t in theta]
        self.op_memory: list[dict[str, Any]] = [{} for _ in theta]
        self.lop_memory: list[dict[str, Any]] = [{} for _ in theta]  # "group" uses the first only
        self.alpha = [
            torch.tensor(alpha, dtype=torch.float64, device="cpu") for _ in theta
        ]  # "group", "released": all equal
        self.h = [ZERO for _ in theta]
        self.beta, self.weight_decay, self.granularity = beta, weight_decay, granularity
        self.decoupled = decoupled
        self.multiplicative = rule in ("multiplicative", "cosine")
        self.normalize = rule in ("additive-cosine", "cosine")
        self.bounds = bounds
        self.trace_decay, self.relative = trace_decay, (*first_relative_step, max_relative_step)
        # The trace of d = s(u + λθ), where λ = 0 unless decoupled, and d = 0 for a tensor that rested.
        self.z = [torch.zeros_like(t) for t in self.theta]

    def step(self, gradients: Sequence[Tensor | None], schedule: float = 1.0) -> None:
        """Take a step.

        A parameter whose gradient is ``None`` rests, with all state of its own. If no parameter has a
        gradient, nothing changes. If tensors share an α, one that rests has d = 0.

        Args:
            gradients: The gradient g_t of each parameter, or ``None``.
            schedule: The factor s of this step's α. Default 1.
        """
        coupled = 0.0 if self.decoupled else self.weight_decay
        g = {i: x.double() + coupled * self.theta[i] for i, x in enumerate(gradients) if x is not None}
        if not g:
            return
        everyone = range(len(self.theta))
        decay = self.weight_decay if self.decoupled else 0.0
        e = {i: move(self.op, g[i], self.op_memory[i]) + decay * self.theta[i] for i in g}
        if self.granularity == "group":
            h = self.hypergradient(list(g), g)
            self.h = [h if i == 0 else ZERO for i in everyone]
            if self.lop["rule"]:
                alpha = self.moved(self.alpha[0], self.alpha[0], h, self.lop_memory[0])
                alpha = self.held(alpha, e, first=not any(bool(z.any()) for z in self.z))
                self.alpha = [alpha for _ in everyone]
        else:
            self.h = [self.hypergradient([i], g) if i in g else ZERO for i in everyone]
        # The tensors of one α that have a gradient share one cosine, whatever the rule.
        shared = self.granularity != "tensor"
        keep = {i: self.trace_decay * (1 - self.opposition(list(g) if shared else [i], g) ** 4) for i in g}
        before = list(self.alpha)
        for i in g:
            if self.lop["rule"] and self.granularity != "group":
                alpha = self.moved(self.alpha[i], before[i], self.h[i], self.lop_memory[i])
                alpha = self.held(alpha, {i: e[i]}, first=not bool(self.z[i].any()))
                for j in everyone if self.granularity == "released" else [i]:
                    self.alpha[j] = alpha
            d = schedule * e[i]
            self.z[i] = keep[i] * self.z[i] + d
            self.theta[i] = self.theta[i] - self.alpha[i] * d
        for i in everyone if shared else ():
            if i not in g:  # it rests while its α moves others: d = 0
                self.z[i] = next(iter(keep.values())) * self.z[i]

    def hypergradient(self, tensors: Sequence[int], g: dict[int, Tensor]) -> Tensor:
        """Return −⟨g, z⟩ over ``tensors``, or its cosine; z is the last d unless there is a trace."""
        h = sum((-(g[i] * self.z[i]).sum() for i in tensors), ZERO)
        return self.cosine(h, tensors, g) if self.normalize else h

    def cosine(self, h: Tensor, tensors: Sequence[int], g: dict[int, Tensor]) -> Tensor:
        """Return h divided by the norms of g and z, or 0 if a norm is 0."""
        g_norm = sum(((g[i] ** 2).sum() for i in tensors), ZERO).sqrt()
        z_norm = sum(((self.z[i] ** 2).sum() for i in tensors), ZERO).sqrt()
        return h / (g_norm * z_norm) if g_norm * z_norm > 0 else ZERO

    def opposition(self, tensors: Sequence[int], g: dict[int, Tensor]) -> Tensor:
        """Return the cosine of −g and z over ``tensors``, or 0 if it is negative."""
        h = sum((-(g[i] * self.z[i]).sum() for i in tensors), ZERO)
        return self.cosine(h, tensors, g).clamp(0, 1)

    def moved(self, alpha: Tensor, before: Tensor, h: Tensor, memory: dict[str, Any]) -> Tensor:
        """Return α after one step of the lop along h, without bounds; ``before`` is α_{t−1}."""
        if self.multiplicative:
            alpha = alpha * torch.exp(
                -self.beta * move(self.lop, h if self.normalize else before * h, memory)
            )
        else:
            alpha = alpha - self.beta * move(self.lop, h, memory)
        return alpha

    def held(self, alpha: Tensor, e: dict[int, Tensor], *, first: bool) -> Tensor:
        """Return α within the relative limits and the bounds; θ's mean square counts as at least 1e-6."""
        low, high, largest = self.relative
        e_norm = sum(((x**2).sum() for x in e.values()), ZERO).sqrt()
        theta_norm = sum(((self.theta[i] ** 2).sum() for i in e), ZERO).sqrt()
        theta_norm = max(theta_norm, 1e-3 * sum(x.numel() for x in e.values()) ** 0.5)
        if e_norm > 0:
            alpha = min(alpha, largest * theta_norm / e_norm)
            if first:
                alpha = min(max(alpha, low * theta_norm / e_norm), high * theta_norm / e_norm)
        return alpha if self.bounds is None else alpha.clamp(*self.bounds)


def move(kind: dict[str, Any], g: Tensor, memory: dict[str, Any]) -> Any:
    """Return the direction of the op or lop ``kind`` at the gradient ``g``; for a lop, ``g`` is h."""
    match kind["rule"]:
        case "sgd":
            return g
        case "sgdn":
            memory["v"] = v = kind["mu"] * memory.get("v", 0.0) + g
            return g + kind["mu"] * v if kind["nesterov"] else v
        case "adam":
            beta1, beta2 = kind["betas"] or (0.9, 0.999)
            memory["t"] = t = memory.get("t", 0) + 1
            memory["m"] = m = beta1 * memory.get("m", 0.0) + (1 - beta1) * g
            memory["v"] = v = beta2 * memory.get("v", 0.0) + (1 - beta2) * g**2
            return (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + kind["eps"])
        case "muon":
            if g.ndim != 2:
                return move({**kind, "rule": "adam"}, g, memory)
            memory["v"] = v = kind["mu"] * memory.get("v", 0.0) + g
            x = g + kind["mu"] * v if kind["nesterov"] else v
            x = x / max((x**2).sum().sqrt(), torch.tensor(1e-7, dtype=torch.float64))
            for _ in range(5):
                x = 3.4445 * x - 4.7750 * x @ x.T @ x + 2.0315 * x @ x.T @ x @ x.T @ x
            return 0.2 * max(g.shape) ** 0.5 * x
        case "adagrad":
            memory["v"] = v = memory.get("v", 0.0) + g**2
            return g / (v.sqrt() + kind["eps"])
        case "lion":
            beta1, beta2 = kind["betas"] or (0.9, 0.99)
            m = memory.get("m", 0.0)
            memory["m"] = beta2 * m + (1 - beta2) * g
            return torch.sign(beta1 * m + (1 - beta1) * g)
    raise ValueError(f"no rule {kind['rule']!r}")
