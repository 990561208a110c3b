"""Large tensors on a CPU are worked on in pieces: the same bits as in one call for all."""

from __future__ import annotations

import pytest
import torch

import hypergrad
from hypergrad._cache_blocking import PIECE, pieces, step_pieces

SHAPES = [(PIECE + 5,), (3,), (2, PIECE), (1000, 1001)]


@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-adam", "adam-adam", "adam", "sgdn"])
def test_pieces_have_the_bits_of_the_whole(name, granularity, layout):
    runs = []
    for way in ({"fused": False}, {"foreach": True}):  # in pieces, whole
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


def test_a_piece_is_a_view_and_the_last_one_holds_the_rest():
    tensor = torch.zeros(2, PIECE // 2 + 3)
    sizes = []
    for (piece,) in pieces(tensor):
        piece += 1
        sizes.append(piece.numel())
    assert sizes == [PIECE, 6]
    assert tensor.eq(1).all()


def test_a_count_moves_once():
    param, state = torch.zeros(3 * PIECE), {"step": torch.tensor(4.0), "exp_avg": torch.zeros(3 * PIECE)}
    seen = []
    for (theta,), (grad,), (own,) in step_pieces([param], [param], [state]):
        assert theta.shape == grad.shape == own["exp_avg"].shape == (PIECE,)
        own["step"] += 1
        seen.append(float(own["step"]))
    assert seen == [5, 5, 5]
    assert state["step"] == 5
