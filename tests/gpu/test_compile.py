"""``torch.compile`` of the step on the GPU. Apart from the rest: compiling takes its time."""

from __future__ import annotations

import pytest
import torch

import hypergrad

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("name", "options"),
    [("adam-adam", {}), ("sgdn-sgdn", {"granularity": "released"}), ("adam-lion", {"granularity": "tensor"})],
)
def test_a_compiled_step_is_one_graph_and_the_same_step(name, options, device):
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in [(64, 32), (64,)]]
    params = [value.to(device).requires_grad_() for value in values]
    twins = [param.detach().clone().requires_grad_() for param in params]
    compiled, eager = (
        hypergrad.create(name, values, lr=0.01, hypergrad_lr=1e-3, **options) for values in (params, twins)
    )
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    step = torch.compile(lambda: compiled.step(), fullgraph=True, backend=backend)
    for _ in range(6):
        for param, twin in zip(params, twins, strict=True):
            param.grad = torch.randn(param.shape, generator=generator).to(device)
            twin.grad = param.grad.clone()
        step()
        eager.step()
    for param, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(param, twin, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(compiled.learning_rates, eager.learning_rates, rtol=1e-4, atol=0)
    assert (compiled.learning_rates[0] - 0.01).abs().max() > 1e-4
