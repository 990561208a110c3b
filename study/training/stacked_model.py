"""Stacks models of one architecture on a leading member axis, decides which can be, and runs them as one.

Members come in *streams*: members of one stream get the same batch, so that their first linear layers are
one matrix product. Parameters have shape (N, *shape) with members ordered by stream; a batch has shape
(streams, batch, …), and outputs have shape (N, batch, …).

Perceptrons keep their activations feature-major, (N, features, batch): then every product is of contiguous
matrices, and a softmax over ten classes runs along the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from study.training import cellwise
from study.training.mapped_model import DROPOUT, Mapped
from study.training.streams import Streams
from study.workloads import torch_settings
from study.workloads.base import Workload


class StackedModel(Protocol):
    """A model for all members at once. Each call passes the parameters; the model has the buffers."""

    buffers: dict[str, Tensor]
    """The buffers by name, each of shape (N, …). In training the model changes them in place; ``keep``
    replaces them."""

    @property
    def draws(self) -> bool:
        """Whether training needs ``masks``."""
        ...

    def train(self, training: bool) -> None:
        """Switch layers to training, or to evaluation."""
        ...

    def keep(self, members: Tensor) -> None:
        """Keep the buffers of these members only."""
        ...

    def masks(self, inputs: Tensor) -> list[Tensor]:
        """Draw the factors of one member's dropout from torch's global generator."""
        ...

    def __call__(
        self, params: Sequence[Tensor], inputs: Tensor, streams: Streams, masks: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the outputs (N, batch, …) from inputs and masks of shape (streams, batch, …)."""
        ...


ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Softplus,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardtanh,
)
LAYERS = (
    *ELEMENTWISE,
    nn.Linear,
    nn.Flatten,
    nn.Unflatten,
    nn.Conv1d,
    nn.Conv2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.LayerNorm,
    nn.GroupNorm,
)
"""Layers that compute the same for every member from only its parameters and its input: no randomness, no
buffers, no difference between training and evaluation."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_IGNORED = -100
"""The target that torch's cross-entropy ignores in its mean."""


def sample_model(workload: Workload) -> nn.Module:
    """Return a model of ``workload`` on the CPU for inspection; the process's state stays the same."""
    settings = torch_settings.kept(workload, workload.load)
    with torch_settings.random_kept(), torch_settings.in_force(settings):
        return workload.build()


class Architecture(NamedTuple):
    """Facts about a workload's models that packing needs."""

    unstackable: str | None
    """Why the models do not stack; None if they do."""
    convolutional: bool
    """Whether the models have a convolution, which runs for all members as one with groups."""
    parameter_bytes: int


_known: dict[int, tuple[Workload, Architecture]] = {}
"""By the workload's id, which stays unique as long as the workload is kept."""


def architecture(workload: Workload) -> Architecture:
    """Return the facts about a workload's models that packing needs; the first call builds a model."""
    if id(workload) not in _known:
        model = sample_model(workload)
        _known[id(workload)] = (
            workload,
            Architecture(
                _unstackable_reason(workload, model),
                any(isinstance(layer, CONVOLUTIONS) for layer in model.modules()),
                sum(parameter.nbytes for parameter in model.parameters()),
            ),
        )
    return _known[id(workload)][1]


def unstackable_reason(workload: Workload) -> str | None:
    """Return why trials of ``workload`` cannot be packed; None if they can."""
    return architecture(workload).unstackable


def _unstackable_reason(workload: Workload, model: nn.Module) -> str | None:
    leaves = list(_leaves(model))
    for layer in leaves:
        # Only these classes: a subclass may do anything, unless its author declares that it stacks.
        if type(layer) not in (*LAYERS, *BATCH_NORMS, *DROPOUT) and not workload.stacks:
            return f"its model has a {type(layer).__name__}, which does not stack"
        if _is_hooked(layer):
            return f"its {type(layer).__name__} has hooks or a parametrization"
        if type(layer) in DROPOUT and sum(other is layer for other in leaves) > 1:
            return f"its model uses one {type(layer).__name__} in several places"
    for layer in model.modules():
        if type(layer) in BATCH_NORMS and getattr(layer, "momentum", None) is None:
            return f"its {type(layer).__name__} averages over all batches (momentum=None)"
        if isinstance(layer, nn.RNNBase) and not (type(layer) is nn.GRU and cellwise.maps(layer)):
            return f"its {type(layer).__name__} cannot be mapped; a GRU in one direction without dropout can"
    parameters = list(model.parameters())
    if not parameters:
        return "its model has no parameters"
    if len(parameters) < sum(len(list(layer.parameters())) for layer in leaves):
        return "its layers share parameters"
    if not all(parameter.requires_grad for parameter in parameters):
        return "some of its parameters are frozen"
    return None


def stack(models: Sequence[nn.Module], dimensions: int) -> StackedModel:
    """Return the members' models as one model.

    Args:
        models: Models of a workload for which ``unstackable_reason`` returns None. Their parameters are not
            used, and they must not be used again.
        dimensions: Number of dimensions of a model's input, the batch's included.
    """
    layers = list(_leaves(models[0]))
    if _is_perceptron(layers, dimensions):
        return Perceptron(layers)
    return Mapped(models)


def losses(workload: Workload, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the stacked loss: (outputs (N, batch, …), targets (N, batch, …)) → losses (N,).

    Args:
        workload: The workload with the loss.
        targets: All targets of the data set.
    """
    by_class = targets.ndim == 1 and not targets.is_floating_point() and not bool((targets == _IGNORED).any())
    if workload.loss is F.cross_entropy and by_class:
        return _cross_entropy
    mapped: Callable[[Tensor, Tensor], Tensor] = vmap(workload.loss)
    return mapped


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.ndim != 3:
        return vmap(F.cross_entropy)(outputs, targets)
    logits = outputs.transpose(1, 2).log_softmax(1)
    return logits.gather(1, targets.unsqueeze(1)).flatten(1).mean(1).neg()


class Perceptron:
    """Linear layers and elementwise functions between them, after the inputs are flattened."""

    draws = False

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]
        self.buffers: dict[str, Tensor] = {}

    def train(self, training: bool) -> None:
        """Do nothing: training and evaluation are the same."""

    def keep(self, members: Tensor) -> None:
        """Do nothing: there are no buffers."""

    def masks(self, inputs: Tensor) -> list[Tensor]:
        """Return none: nothing is drawn."""
        return []

    def __call__(
        self, params: Sequence[Tensor], inputs: Tensor, streams: Streams, masks: Sequence[Tensor] = ()
    ) -> Tensor:
        """Return the outputs; see ``StackedModel``."""
        rest = iter(params)
        values, shared = inputs, True
        for layer in self._layers:
            if isinstance(layer, nn.Linear):
                weight = next(rest)
                bias = next(rest) if len(list(layer.parameters())) > 1 else None
                if shared:
                    values = _shared_product(weight, bias, values, streams)
                    shared = False
                elif bias is None:
                    values = torch.bmm(weight, values)
                else:
                    values = torch.baddbmm(bias.unsqueeze(-1), weight, values)
            elif isinstance(layer, nn.Flatten):
                values = values.flatten(2) if shared else values
            else:
                values = layer(values)
        return values.transpose(1, 2)


def _shared_product(weight: Tensor, bias: Tensor | None, inputs: Tensor, streams: Streams) -> Tensor:
    """Return W_k X_sᵀ + b_k, shape (N, out, batch): one matrix product for all members of a stream."""
    members, features, _ = weight.shape
    count = len(streams.counts)
    transposed = inputs.transpose(1, 2)
    if streams.even:
        rows = weight.reshape(count, -1, weight.shape[-1])
        if bias is None:
            products = torch.bmm(rows, transposed)
        else:
            products = torch.baddbmm(bias.reshape(count, -1, 1), rows, transposed)
        return products.view(members, features, -1)
    parts = [
        torch.mm(own.flatten(0, 1), batch).view(size, features, -1)
        for own, batch, size in zip(
            weight.split(list(streams.counts)), transposed, streams.counts, strict=True
        )
    ]
    products = torch.cat(parts)
    return products if bias is None else products + bias.unsqueeze(-1)


def _leaves(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers in the order in which nested ``nn.Sequential`` run them, other containers whole."""
    if type(model) is nn.Sequential and not _is_hooked(model):
        for layer in model:
            yield from _leaves(layer)
    else:
        yield model


def _is_hooked(layer: nn.Module) -> bool:
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return any(hooks) or nn.utils.parametrize.is_parametrized(layer)


def _is_perceptron(layers: list[nn.Module], dimensions: int) -> bool:
    for layer in layers:
        if isinstance(layer, nn.Flatten):
            if (layer.start_dim, layer.end_dim) != (1, -1):
                return False
            dimensions = 2
        elif isinstance(layer, nn.Linear):
            if dimensions != 2:
                return False
        elif not isinstance(layer, ELEMENTWISE):
            return False
    return any(isinstance(layer, nn.Linear) for layer in layers)
