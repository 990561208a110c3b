"""Models of one architecture as one: which can be stacked on a leading member axis, and their forward pass.

Members come in *streams*: those of one stream are given the same batch, so that their first linear layers are
one matrix product. Parameters have shape (N, *shape) with members ordered by stream; a batch has shape
(streams, batch, …), and outputs have shape (N, batch, …).

Perceptrons keep their activations feature-major, (N, features, batch): every product is then of contiguous
matrices, and a softmax over ten classes runs along the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from study.workloads import torch_settings
from study.workloads.base import Workload


@dataclass(frozen=True)
class Streams:
    """How many members each stream has.

    Args:
        counts: members per stream.
        device: where batches are. A copy of the counts is kept there: made anew for every batch, it would be
            a copy that waits, which a CUDA graph cannot capture.
    """

    counts: tuple[int, ...]
    device: torch.device
    _repeats: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_repeats", torch.tensor(self.counts, device="cpu").to(self.device))

    @property
    def members(self) -> int:
        """The members of all streams."""
        return sum(self.counts)

    @property
    def even(self) -> bool:
        """Whether all streams have equally many members."""
        return len(set(self.counts)) == 1

    def repeat(self, values: Tensor) -> Tensor:
        """Return ``values``, of shape (streams, …), once for each member: of shape (N, …)."""
        return values.repeat_interleave(self._repeats, dim=0, output_size=self.members)


Forward = Callable[[Sequence[Tensor], Tensor, Streams], Tensor]
"""(parameters, batch, streams) → outputs."""

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
"""Layers that compute the same for every member from its parameters and its input alone: no randomness, no
buffers, no difference between training and evaluation."""

_IGNORED = -100
"""The target that torch's cross-entropy leaves out of its mean."""


def sample_model(workload: Workload) -> nn.Module:
    """Return a model of ``workload`` on the CPU to look at; building it leaves no trace in the process."""
    settings = torch_settings.kept(workload, workload.load)
    with torch_settings.random_kept(), torch_settings.in_force(settings):
        return workload.build()


def unstackable_reason(workload: Workload) -> str | None:
    """Return why trials of ``workload`` cannot be packed; None if they can."""
    if workload.prepare is not None:
        return "its batches are prepared by a function of its own, which may draw at random"
    model = sample_model(workload)
    for layer in _leaves(model):
        # Exactly these classes: a subclass may do anything, unless its author says that it stacks.
        if type(layer) not in LAYERS and not workload.stacks:
            return f"its model has a {type(layer).__name__}, which does not stack"
        if _is_hooked(layer):
            return f"its {type(layer).__name__} has hooks or a parametrization"
    parameters = list(model.parameters())
    if not parameters:
        return "its model has no parameters"
    if len(parameters) < sum(len(list(layer.parameters())) for layer in _leaves(model)):
        return "its layers share parameters"
    if not all(parameter.requires_grad for parameter in parameters):
        return "some of its parameters are frozen"
    return None


def forward(model: nn.Module, dimensions: int) -> Forward:
    """Return the stacked forward pass of ``model``, whose own parameters are not used.

    Args:
        model: of a workload that ``unstackable_reason`` has nothing against.
        dimensions: of the model's input, the batch's included.
    """
    layers = list(_leaves(model))
    if _is_perceptron(layers, dimensions):
        return Perceptron(layers)
    return Mapped(model)


def losses(workload: Workload, targets: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the stacked loss: (outputs (N, batch, …), targets (N, batch, …)) → losses (N,).

    Args:
        workload: whose loss it is.
        targets: all that there are.
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

    def __init__(self, layers: list[nn.Module]) -> None:
        self._layers = [layer for layer in layers if not isinstance(layer, nn.Identity)]

    def __call__(self, params: Sequence[Tensor], inputs: Tensor, streams: Streams) -> Tensor:
        """Return the outputs: a ``Forward``."""
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
    """W_k X_sᵀ + b_k as (N, out, batch): one matrix product for all members of a stream."""
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


class Mapped:
    """Any model, by ``torch.func.vmap``."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._names = [name for name, _ in model.named_parameters()]

    def __call__(self, params: Sequence[Tensor], inputs: Tensor, streams: Streams) -> Tensor:
        """Return the outputs: a ``Forward``."""

        def one(params: tuple[Tensor, ...], inputs: Tensor) -> Tensor:
            named = dict(zip(self._names, params, strict=True))
            outputs: Tensor = functional_call(self._model, named, (inputs,))
            return outputs

        outputs: Tensor
        if len(streams.counts) == 1:
            outputs = vmap(one, in_dims=(0, None))(tuple(params), inputs[0])
        elif streams.even:
            # Members of a stream share its batch, instead of each having a copy.
            by_stream = tuple(param.unflatten(0, (len(streams.counts), -1)) for param in params)
            outputs = vmap(vmap(one, in_dims=(0, None)))(by_stream, inputs).flatten(0, 1)
        else:
            outputs = vmap(one)(tuple(params), streams.repeat(inputs))
        return outputs


def _leaves(model: nn.Module) -> Iterator[nn.Module]:
    """The layers in the order in which nested ``nn.Sequential`` run them; other containers are leaves."""
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
