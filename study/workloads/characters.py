"""Next-letter prediction: a small recurrent network on a text of our own; no download, seconds to train."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.workloads import grammar
from study.workloads.base import Data, Workload

__all__ = ["LetterModel", "gru", "load", "loss"]

WINDOW = 32
"""Characters that the model sees at a time, each window anew."""
TRAIN, VAL = 6400, 1280
"""Windows for training and for validation."""
TRAIN_TEXT, VAL_TEXT = 2019, 2020
"""Seeds of the two texts; not a trial's."""


def load(folder: Path) -> Data:
    """Return windows of the text as int64 codes (6400, 32) and (1280, 32); ``folder`` is not used.

    A target is the character after its input's. Validation is on another text of the same grammar
    (:mod:`study.workloads.grammar`). Both are the same for every seed, machine and version.
    """
    return Data(*_windows(TRAIN, TRAIN_TEXT), *_windows(VAL, VAL_TEXT))


def _windows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    code = {character: code for code, character in enumerate(grammar.ALPHABET)}
    codes = torch.tensor([code[character] for character in grammar.text(count * WINDOW + 1, seed)])
    return codes[:-1].reshape(count, WINDOW), codes[1:].reshape(count, WINDOW)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per character, in nats.

    Args:
        logits: shape (n, window, characters).
        targets: codes, shape (n, window).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gru(width: int = 32) -> Workload:
    """A gated recurrent network over windows of 32 characters: 6,417 parameters with 32 hidden units."""
    return Workload("chars-gru", load, partial(LetterModel, len(grammar.ALPHABET), 16, width), loss)


class LetterModel(nn.Module):
    """An embedding, one GRU layer from a zero state, a linear layer; all in torch's initialisation.

    (n, length) codes → (n, length, characters) logits of each next character.
    """

    def __init__(self, characters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, characters)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the logits; each position has seen itself and those before it."""
        states, _ = self.recurrent(self.embedding(codes))
        logits: Tensor = self.output(states)
        return logits
