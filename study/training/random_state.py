"""A trial's own random streams, all derived from its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

_numpy: Any = np.random  # its stubs lack documented functions


class RandomState:
    """The random streams of a trial: for its model, for the order of its data, and for augmentation.

    Layers such as dropout can only draw from torch's global generators, and much code draws from numpy's or
    Python's. ``in_use`` lends them the trial's own states, and restores the previous states afterwards.

    Args:
        seed: The trial's seed.
        device: The device on which the trial trains, which also has the generator for augmentation.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        words = np.random.SeedSequence(seed).generate_state(5, np.uint64).tolist()
        model, order, augmentation, for_numpy, for_python = words
        self._cuda = [device] if device.type == "cuda" else []
        self.order = torch.Generator("cpu").manual_seed(_signed(order))
        self.augmentation = torch.Generator(device).manual_seed(_signed(augmentation))
        self._numpy: Any = np.random.MT19937(for_numpy)
        self._python = random.Random(for_python).getstate()
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(_signed(model))
            self._states = self._read()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Lend the trial's states to the global generators."""
        found, found_python = _numpy.get_bit_generator(), random.getstate()
        with torch.random.fork_rng(self._cuda):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._cuda, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            _numpy.set_bit_generator(self._numpy)
            random.setstate(self._python)
            try:
                yield
            finally:
                self._states = self._read()
                self._numpy, self._python = _numpy.get_bit_generator(), random.getstate()
                _numpy.set_bit_generator(found)
                random.setstate(found_python)

    def state_dict(self) -> dict[str, Any]:
        """Return the states, which ``torch.load(weights_only=True)`` can read."""
        version, words, gauss = self._python
        state = {
            "model": list(self._states),
            "order": self.order.get_state(),
            "augmentation": self.augmentation.get_state(),
            "python": {"version": version, "words": torch.tensor(words, device="cpu"), "gauss": gauss},
        }
        if isinstance(self._numpy, np.random.MT19937):  # unless the workload has replaced it
            own = self._numpy.state["state"]
            state["numpy"] = {"key": torch.from_numpy(own["key"].astype(np.int64)), "pos": own["pos"]}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from ``state``; streams that an earlier version did not have start at their beginning."""
        # A GPU's checkpoint has one state too many for a CPU, a CPU's has one too few for a GPU.
        self._states = [*state["model"], *self._states[len(state["model"]) :]][: len(self._states)]
        self.order.set_state(state["order"])
        if state["augmentation"].shape == self.augmentation.get_state().shape:
            self.augmentation.set_state(state["augmentation"])
        if "numpy" in state:
            key = state["numpy"]["key"].numpy().astype(np.uint32)
            self._numpy.state = {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": state["numpy"]["pos"]},
            }
        if "python" in state:
            python = state["python"]
            self._python = python["version"], tuple(python["words"].tolist()), python["gauss"]

    def _read(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda)]


def _signed(word: int) -> int:
    # torch takes seeds up to 2**63 - 1 for every generator
    return word >> 1
