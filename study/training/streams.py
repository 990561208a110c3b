"""Groups the members of a pack that get the same batch. Needs torch only."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Streams:
    """The number of members of each stream.

    Args:
        counts: Number of members per stream.
        device: The device of the batches. It keeps a copy of the counts: a new copy for every batch would
            have to wait, which a CUDA graph cannot capture.
    """

    counts: tuple[int, ...]
    device: torch.device
    _repeats: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_repeats", torch.tensor(self.counts, device="cpu").to(self.device))

    @property
    def members(self) -> int:
        """Number of members in all streams."""
        return sum(self.counts)

    @property
    def even(self) -> bool:
        """Whether all streams have the same number of members."""
        return len(set(self.counts)) == 1

    def repeat(self, values: Tensor) -> Tensor:
        """Return ``values``, shape (streams, …), repeated for each member, shape (N, …)."""
        return values.repeat_interleave(self._repeats, dim=0, output_size=self.members)
