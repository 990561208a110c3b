"""Finds the members of a pack that get the same batch. Needs torch only."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


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
