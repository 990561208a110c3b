"""Large tensors on a CPU are worked on in chunks: the same bits as in one call for all."""

from __future__ import annotations

import pytest
import torch

import hypergrad
from hypergrad._cache_blocking import CHUNK, chunks, step_chunks

SHAPES = [(CHUNK + 5,), (3,), (2, CHUNK), (1000, 1001)]


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-adam", "adam-adam", "adam", "sgdn"])
def test_chunks_have_the_bits_of_the_whole(name, granularity, layout):
    runs = []
    for way in ({"fused": False}, {"foreach": True}):  # in chunks, whole
        generator = torch.Generator().manual_seed(0)
        params = [torch.randn(shape, generator=generator) for shape in SHAPES]
        if layout == "transposed":
            params[3] = params[3].T.contiguous().T
        params = [torch.nn.Parameter(param) for param in params]
        optimizer = hypergrad.create(name, params, lr=1e-3, weight_decay=0.1, granularity=granularity, **way)
        for _ in range(3):
            for param in params:
                param.grad = torch.empty_like(param).normal_(generator=generator)
            optimizer.step()
        counts = [optimizer.state[param].get("step", torch.tensor(3.0)) for param in params]
        assert all(count == 3 for count in counts)
        runs.append([*(param.detach() for param in params), *optimizer.learning_rates])
    assert all(map(torch.equal, *runs))


def test_a_chunk_is_a_view_and_the_last_one_holds_the_rest():
    tensor = torch.zeros(2, CHUNK // 2 + 3)
    sizes = []
    for (chunk,) in chunks(tensor):
        chunk += 1
        sizes.append(chunk.numel())
    assert sizes == [CHUNK, 6]
    assert tensor.eq(1).all()


def test_a_count_moves_once():
    param, state = torch.zeros(3 * CHUNK), {"step": torch.tensor(4.0), "exp_avg": torch.zeros(3 * CHUNK)}
    seen = []
    for (theta,), (grad,), (own,) in step_chunks([param], [param], [state]):
        assert theta.shape == grad.shape == own["exp_avg"].shape == (CHUNK,)
        own["step"] += 1
        seen.append(float(own["step"]))
    assert seen == [5, 5, 5]
    assert state["step"] == 5
