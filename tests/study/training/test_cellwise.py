"""A GRU in small operations against torch's own."""

import pytest
import torch
from torch import nn

from study.training.cellwise import CellwiseGRU, maps


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_it_is_torchs_gru_and_has_its_gradients(layers, bias, batch_first, given):
    torch.manual_seed(0)
    theirs = nn.GRU(4, 5, num_layers=layers, bias=bias, batch_first=batch_first).double()
    ours = CellwiseGRU(theirs)
    assert maps(theirs)
    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    inputs = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    state = torch.randn(layers, 3 if batch_first else 7, 5, dtype=torch.float64) if given else None
    results = []
    for model in (ours, theirs):
        states, last = model(inputs, state)
        wanted = [inputs, *theirs.parameters()]
        results.append([states, last, *torch.autograd.grad(states.sum() + (last**2).sum(), wanted)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other)


def test_what_it_cannot_take_the_place_of():
    assert not maps(nn.GRU(4, 5, bidirectional=True))
    assert not maps(nn.GRU(4, 5, num_layers=2, dropout=0.1))
    with pytest.raises(TypeError, match="takes a tensor"):
        CellwiseGRU(nn.GRU(4, 5))(torch.zeros(7, 4))
