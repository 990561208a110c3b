"""A small float64 training problem that every test shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor


class Problem:
    """Regression by a 5-6-3 tanh network on minibatches of 8, one per step: four parameter tensors."""

    # α₀ and β for each op and lop, such that α moves by a tenth or more within 50 steps.
    RATES = {  # noqa: RUF012
        "sgd": (0.02, {"sgd": 1e-3, "sgdn": 2e-4, "adam": 1e-3}),
        "sgdn": (0.005, {"sgd": 5e-5, "sgdn": 5e-6, "adam": 2e-4}),
        "adam": (0.005, {"sgd": 1e-5, "sgdn": 2e-6, "adam": 2e-4}),
    }

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
        alpha0, betas = self.RATES[op]
        return alpha0, betas.get(lop, 0.0)

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
