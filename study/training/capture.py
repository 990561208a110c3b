"""Runs an iteration of a pack as one CUDA graph: one launch in place of hundreds of small kernels.

Off unless asked for: ``packed_trainer.PackTraining`` takes ``capture=True``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

OFF = "CUDA graphs: off, as no run on a GPU has shown yet that captured packs hold; see tests/gpu"
"""Line that ``plan`` prints for packs on a GPU."""
WARM_UP = 3
"""Iterations before the capture, in which libraries choose algorithms and allocate. They are undone."""


def can_capture(device: torch.device) -> bool:
    """Return whether iterations on ``device`` can be captured."""
    return device.type == "cuda"


class CapturedIteration:
    """Replays a captured call of ``iterate`` on the batch that it is called with.

    A replay reads and writes the same memory as the capture. So this object keeps ``iterate`` alive, and
    with it every tensor that ``iterate`` refers to.

    Args:
        iterate: Takes a batch, tensors on a GPU, moves ``tensors`` in place and returns losses. It must read
            nothing back and depend on nothing else that changes.
        batch: The first batch, such as its row numbers. The tensors of every other must have the same shapes.
        tensors: All tensors that ``iterate`` moves. They must keep their memory as long as this object is
            used.
    """

    def __init__(
        self, iterate: Callable[..., Tensor], batch: Sequence[Tensor], tensors: Sequence[Tensor]
    ) -> None:
        self._iterate = iterate
        self._tensors = list(tensors)
        self._batch = [part.clone() for part in batch]
        device = batch[0].device
        before = [tensor.detach().clone() for tensor in tensors]
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                iterate(*self._batch)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._losses = iterate(*self._batch)

    def takes(self, batch: Sequence[Tensor]) -> bool:
        """Return whether ``batch`` has the shapes of the first one."""
        return [part.shape for part in batch] == [part.shape for part in self._batch]

    def __call__(self, batch: Sequence[Tensor]) -> Tensor:
        """Run one iteration and return its losses."""
        for own, part in zip(self._batch, batch, strict=True):
            own.copy_(part)
        self._graph.replay()
        return self._losses.clone()
