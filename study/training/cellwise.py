"""Recurrent layers made of operations that ``torch.func.vmap`` can map; it cannot map torch's own layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def maps(layer: nn.GRU) -> bool:
    """Return whether ``CellwiseGRU`` can replace ``layer``."""
    return not layer.bidirectional and not (layer.dropout and layer.num_layers > 1)


class CellwiseGRU(nn.Module):
    """``nn.GRU``, one position after the other: the same function of the same parameters, up to rounding.

    Args:
        layer: The layer whose parameters it takes over; in one direction, without dropout.
    """

    def __init__(self, layer: nn.GRU) -> None:
        super().__init__()
        self._layers, self._batch_first = layer.num_layers, layer.batch_first
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the states of the last layer at every position, and the last states of all layers.

        Args:
            inputs: Inputs, shape (length, batch, features), or (batch, length, features) if ``batch_first``
                is set.
            state: Initial states, shape (layers, batch, units). Default: zeros.

        Raises:
            TypeError: The inputs are a packed sequence, or have no batch dimension.
        """
        if not isinstance(inputs, Tensor) or inputs.ndim != 3:
            raise TypeError("a GRU in a pack takes a tensor (batch, length, features)")
        values = inputs.transpose(0, 1) if self._batch_first else inputs
        last = []
        for layer in range(self._layers):
            own = dict(self.named_parameters())
            into, between = own[f"weight_ih_l{layer}"], own[f"weight_hh_l{layer}"]
            into_bias, between_bias = own.get(f"bias_ih_l{layer}"), own.get(f"bias_hh_l{layer}")
            gates = F.linear(values, into, into_bias)
            hidden = gates.new_zeros(gates.shape[1], between.shape[-1]) if state is None else state[layer]
            states = []
            for given in gates.unbind(0):
                reset, update, new = given.chunk(3, -1)
                of_reset, of_update, of_new = F.linear(hidden, between, between_bias).chunk(3, -1)
                candidate = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
                hidden = candidate + torch.sigmoid(update + of_update) * (hidden - candidate)
                states.append(hidden)
            values = torch.stack(states)
            last.append(hidden)
        return (values.transpose(0, 1) if self._batch_first else values), torch.stack(last)
