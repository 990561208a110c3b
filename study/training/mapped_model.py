"""Runs any model for all members of a pack by ``torch.func.vmap``, with batch norm, dropout and GRUs.

Buffers, such as the running means of batch norm, are stacked like parameters, and each member has its own.
The layers themselves draw dropout, outside of ``vmap``: drawn with a trial's own generator, it gives the
masks that the trial draws alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from study.training.cellwise import CellwiseGRU
from study.training.streams import Streams

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
"""Layers whose output in training is their input times random numbers that do not depend on it."""


class Mapped:
    """A stacked model of any architecture.

    Args:
        models: The models of all members, alike but for the values of their parameters and buffers. The first
            runs all members, and is changed for that; of the others only the buffers are read.

    Attributes:
        buffers: The buffers by name, each of shape (N, …). In training the model changes them in place.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self._model = models[0]
        self._names = [name for name, _ in self._model.named_parameters()]
        own = [dict(model.named_buffers()) for model in models]
        self.buffers = {name: torch.stack([values[name] for values in own]) for name in own[0]}
        self._masked = {
            name: _Masked(layer) for name, layer in self._model.named_modules() if type(layer) in DROPOUT
        }
        recurrent = {
            name: CellwiseGRU(layer)
            for name, layer in self._model.named_modules()
            if isinstance(layer, nn.GRU)
        }
        for name, layer in (self._masked | recurrent).items():
            self._model.set_submodule(name, layer)
        self._layouts: dict[tuple[object, ...], list[tuple[str, Tensor]]] = {}
        self._drawn: list[str] = []

    @property
    def draws(self) -> bool:
        """Whether training needs ``masks``."""
        return bool(self._masked)

    def train(self, training: bool) -> None:
        """Switch batch norm and dropout to training, or to evaluation."""
        self._model.train(training)

    def keep(self, members: Tensor) -> None:
        """Keep the buffers of these members only."""
        self.buffers = {name: values.index_select(0, members) for name, values in self.buffers.items()}

    @torch.no_grad()
    def masks(self, inputs: Tensor) -> list[Tensor]:
        """Draw the factors of one member's dropout from torch's global generator.

        The layers draw in the order in which the model calls them, as in a forward pass.

        Args:
            inputs: Inputs of one member, shape (batch, …).

        Raises:
            ValueError: A layer is called more than once in a forward pass.
        """
        if not self._masked:
            return []
        key = inputs.shape, inputs.dtype
        if key not in self._layouts:
            self._layouts[key] = self._find_layouts(inputs)
        self._drawn = [name for name, _ in self._layouts[key]]
        return [self._masked[name].draw(ones) for name, ones in self._layouts[key]]

    def __call__(
        self, params: Sequence[Tensor], inputs: Tensor, streams: Streams, masks: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the outputs; see ``stacked_model.StackedModel``."""
        own = tuple(params), tuple(self.buffers.values())
        shared = inputs, tuple(masks)

        def one(own: tuple[tuple[Tensor, ...], ...], shared: tuple[Tensor, tuple[Tensor, ...]]) -> Tensor:
            named = dict(zip(self._names, own[0], strict=True)) | dict(zip(self.buffers, own[1], strict=True))
            named |= {f"{name}.mask": mask for name, mask in zip(self._drawn, shared[1], strict=False)}
            outputs: Tensor = functional_call(self._model, named, (shared[0],))
            return outputs

        outputs: Tensor
        if len(streams.counts) == 1:
            first = inputs[0], tuple(mask[0] for mask in masks)
            outputs = vmap(one, in_dims=(0, None))(own, first)
        elif streams.even:
            # Members of a stream share its batch, instead of each having a copy.
            by_stream = tuple(
                tuple(value.unflatten(0, (len(streams.counts), -1)) for value in values) for values in own
            )
            outputs = vmap(vmap(one, in_dims=(0, None)))(by_stream, shared).flatten(0, 1)
        else:
            each = streams.repeat(inputs), tuple(streams.repeat(mask) for mask in masks)
            outputs = vmap(one)(own, each)
        return outputs

    def _find_layouts(self, inputs: Tensor) -> list[tuple[str, Tensor]]:
        """Return each dropout's name and a tensor of ones laid out like its input, in the order of the calls.

        They are found by a forward pass in evaluation mode, which draws nothing and changes no buffer.
        """
        found: list[tuple[str, Tensor]] = []
        was_training = self._model.training
        self._model.eval()
        hooks = [
            layer.register_forward_pre_hook(
                lambda _, args, name=name: found.append((name, torch.ones_like(args[0])))
            )
            for name, layer in self._masked.items()
        ]
        try:
            self._model(inputs)
        finally:
            for hook in hooks:
                hook.remove()
            self._model.train(was_training)
        names = [name for name, _ in found]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} drops out {names.count(name)} times in one forward pass")
        return found


class _Masked(nn.Module):
    """Replaces a dropout layer: multiplies by a given mask."""

    mask: Tensor

    def __init__(self, dropout: nn.Module) -> None:
        super().__init__()
        self._dropout = (dropout,)  # in a tuple, so that it is no submodule
        self.register_buffer("mask", None, persistent=False)

    def draw(self, ones: Tensor) -> Tensor:
        """Return the layer's factors in training, drawn from torch's global generator."""
        (dropout,) = self._dropout
        mask: Tensor = dropout.train()(ones.clone() if getattr(dropout, "inplace", False) else ones)
        return mask

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.mask if self.training else inputs
