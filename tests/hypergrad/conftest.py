"""A small float64 training problem that every test shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import hypergrad
from hypergrad.reference import Reference

from .rules import RULES


class Problem:
    """Regression by a 5-6-3 tanh network on minibatches of 8, one per step: four parameter tensors."""

    ALPHA0 = {"sgd": 0.02, "sgdn": 0.005, "adam": 0.005, "adamw": 0.005, "muon": 0.005}  # noqa: RUF012

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(6, 5), (6,), (3, 6), (3,)]
        self._initial = [torch.randn(s, generator=generator, dtype=torch.float64) * 0.5 for s in shapes]
        self._inputs = torch.randn(50, 8, 5, generator=generator, dtype=torch.float64)
        self._targets = torch.randn(50, 8, 3, generator=generator, dtype=torch.float64)

    def initial(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        return [value.to(dtype, copy=True).requires_grad_() for value in self._initial]

    def loss(self, params: Sequence[Tensor], step: int) -> Tensor:
        w1, b1, w2, b2 = params
        inputs, targets = (x[step % 50].to(w1.dtype) for x in (self._inputs, self._targets))
        return ((torch.tanh(inputs @ w1.T + b1) @ w2.T + b2 - targets) ** 2).mean() * 3

    def gradients(self, params: Sequence[Tensor], step: int) -> list[Tensor]:
        leaves = [param.detach().requires_grad_() for param in params]
        return list(torch.autograd.grad(self.loss(leaves, step), leaves))

    def rates(self, name: str) -> tuple[float, float]:
        """(α₀, β) for an optimizer's name; β = 0 where α is fixed."""
        op, _, lop = name.partition("-")
        return self.ALPHA0[op], RULES[lop].beta[{"adamw": "adam", "muon": "adam"}.get(op, op)] if lop else 0.0

    def train(
        self,
        optimizer: torch.optim.Optimizer,
        params: Sequence[Tensor],
        steps: range,
        missing: dict[int, set[int]] | None = None,
    ) -> None:
        """Step through the minibatches; in step t the tensors ``missing[t]`` have no gradient."""
        for step in steps:
            gone = (missing or {}).get(step, set())
            for index, (param, grad) in enumerate(zip(params, self.gradients(params, step), strict=True)):
                if index in gone:
                    param.grad = None
                elif param.grad is None:
                    param.grad = grad
                else:
                    param.grad.copy_(grad)  # an optimizer that keeps the gradient itself would notice
            optimizer.step()

    def check_against_reference(
        self,
        name: str,
        granularity: str = "group",
        weight_decay: float = 0.0,
        groups: Sequence[Sequence[int]] = ((0, 1, 2, 3),),
        missing: dict[int, set[int]] | None = None,
        *,
        rates: tuple[float, float] | None = None,
        options: dict[str, Any] | None = None,
        reference: dict[str, Any] | None = None,
        schedule: Callable[[int], float] | None = None,
        tolerance: float = 1e-12,
        **kwargs: Any,
    ) -> list[list[float]]:
        """Train 50 steps and assert that the slow reference, on its own way, ends at the same.

        With kernels, where there are some, and without, unless ``kwargs`` say which.

        Args:
            name, granularity, weight_decay: of the optimizer and the reference.
            groups: the tensors of each parameter group.
            missing: as for ``train``.
            rates: α₀ and β, if not those of ``Problem.rates``.
            options: further arguments of the optimizer.
            reference: further arguments of the reference.
            schedule: s of each step.
            tolerance: the largest relative difference.
            **kwargs: further arguments of the optimizer that the reference has nothing like.

        Returns:
            α of the first group's first tensor at each step, in one list per group.
        """
        if not {"fused", "foreach"} & {*kwargs, *(options or {})}:
            arguments = (name, granularity, weight_decay, groups, missing)
            given = {"rates": rates, "options": options, "reference": reference, "schedule": schedule}
            for fused in (False, None):
                paths = self.check_against_reference(
                    *arguments, **given, tolerance=tolerance, fused=fused, **kwargs
                )
            return paths
        alpha0, beta = rates or self.rates(name)
        missing = missing or {}
        params = self.initial()
        settings = [(alpha0 * (1 + 0.3 * i), beta * (1 - 0.2 * i)) for i in range(len(groups))]
        optimizer = hypergrad.create(
            name,
            [
                {"params": [params[i] for i in members], "lr": lr, "hypergrad_lr": hypergrad_lr}
                for members, (lr, hypergrad_lr) in zip(groups, settings, strict=True)
            ],
            weight_decay=weight_decay,
            granularity=granularity,
            **(options or {}),
            **kwargs,
        )
        references = [
            Reference(
                name,
                [params[i] for i in members],
                lr,
                hypergrad_lr,
                weight_decay=weight_decay,
                granularity=granularity,
                **(reference or {}),
            )
            for members, (lr, hypergrad_lr) in zip(groups, settings, strict=True)
        ]
        factors = torch.optim.lr_scheduler.LambdaLR(optimizer.schedule, schedule) if schedule else None
        paths = [[] for _ in groups]
        for step in range(50):
            self.train(optimizer, params, range(step, step + 1), missing)
            if factors is not None:
                factors.step()
            # The reference follows its own trajectory, not the optimizer's gradients.
            theta = [torch.empty(0)] * 4
            for members, oracle in zip(groups, references, strict=True):
                for i, value in zip(members, oracle.theta, strict=True):
                    theta[i] = value
            grads = self.gradients(theta, step)
            for members, oracle, path in zip(groups, references, paths, strict=True):
                oracle.step(
                    [None if i in missing.get(step, ()) else grads[i] for i in members],
                    schedule(step) if schedule else 1.0,
                )
                path.append(float(oracle.alpha[0]))

        learned = "-" in name
        for index, (members, oracle, (lr, _)) in enumerate(zip(groups, references, settings, strict=True)):
            for i, value in zip(members, oracle.theta, strict=True):
                assert difference(params[i].detach(), value) <= tolerance
            by_tensor = learned and granularity == "tensor"
            alpha = torch.stack(oracle.alpha) if by_tensor else oracle.alpha[0]
            assert optimizer.learning_rates[index].shape == alpha.shape
            assert difference(optimizer.learning_rates[index], alpha) <= tolerance
            if learned:
                h = torch.stack(oracle.h)
                h = h if by_tensor else h.sum()
                assert difference(optimizer.hypergradients[index], h) <= 1000 * tolerance
                assert (alpha / lr - 1).abs().max() > 0.01, "α must move for the comparison to mean anything"
        return paths


def difference(a: Any, b: Any) -> float:
    """The largest difference, relative to the largest value."""
    a, b = torch.as_tensor(a).double().flatten(), torch.as_tensor(b).double().flatten()
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The tensors are tiny: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def problem() -> Problem:
    return Problem()
