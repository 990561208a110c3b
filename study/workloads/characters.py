"""Next-letter prediction on a text of our own, by small networks: no download, seconds to train."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.workloads import grammar
from study.workloads.base import Data, Workload

__all__ = ["LetterModel", "LetterTransformer", "gru", "load", "load_short", "loss", "transformer"]

WINDOW = 32
"""Characters that the model sees at a time; its state starts anew in each window."""
TRAIN, VAL = 6400, 1280
"""Numbers of windows for training and for validation."""
SHORT = 16
"""Characters of a window of ``load_short``."""
TRAIN_TEXT, VAL_TEXT = 2019, 2020
"""Seeds of the two texts, independent of a trial's seed."""


def load(folder: Path) -> Data:
    """Return windows of the text as int64 codes (6400, 32) and (1280, 32); ``folder`` is not used.

    A target is the character after its input's. Validation is on another text of the same grammar
    (``study.workloads.grammar``). Both are the same for every seed, machine and version.
    """
    return Data(*_windows(TRAIN, TRAIN_TEXT), *_windows(VAL, VAL_TEXT))


def load_short(folder: Path) -> Data:
    """Return the same texts in windows of 16 characters: codes (12800, 16) and (2560, 16)."""
    data = load(folder)
    inputs, targets, *val = (codes.reshape(-1, SHORT) for codes in vars(data).values())
    return Data(inputs, targets, *val)


def _windows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    code = {character: code for code, character in enumerate(grammar.ALPHABET)}
    codes = torch.tensor([code[character] for character in grammar.text(count * WINDOW + 1, seed)])
    return codes[:-1].reshape(count, WINDOW), codes[1:].reshape(count, WINDOW)


def loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy per character, in nats.

    Args:
        logits: Logits, shape (n, window, characters).
        targets: Codes, shape (n, window).
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def gru(width: int = 32) -> Workload:
    """Return a gated recurrent network over windows of 32 characters: 6,417 parameters with 32 units."""
    return Workload("chars-gru", load, partial(LetterModel, len(grammar.ALPHABET), 16, width), loss)


class LetterModel(nn.Module):
    """An embedding, one GRU layer from a zero state, a linear layer; all in torch's initialisation.

    It maps codes (n, length) to logits (n, length, characters) of each next character.
    """

    def __init__(self, characters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, embedding)
        self.recurrent = nn.GRU(embedding, hidden, batch_first=True)
        self.output = nn.Linear(hidden, characters)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the logits; each position depends on itself and those before it."""
        states, _ = self.recurrent(self.embedding(codes))
        logits: Tensor = self.output(states)
        return logits


def transformer(width: int = 32) -> Workload:
    """Return a transformer of one block over windows of 16 characters: 11,265 parameters with width 32."""
    build = partial(LetterTransformer, len(grammar.ALPHABET), width, heads=2, length=SHORT)
    return Workload("chars-transformer", load_short, build, loss, stacks=True)


class LetterTransformer(nn.Module):
    """Embeddings of characters and places, one block of attention and perceptron, a linear layer.

    It maps codes (n, length) to logits (n, length, characters) of each next character. The block normalises
    before each of its parts (pre-norm). Source: Vaswani et al. 2017, Attention Is All You Need,
    https://arxiv.org/abs/1706.03762; Xiong et al. 2020, On Layer Normalization in the Transformer
    Architecture, https://arxiv.org/abs/2002.04745
    """

    def __init__(self, characters: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self._heads = heads
        self.embedding = nn.Embedding(characters, width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        self.later: Tensor
        self.register_buffer("later", torch.ones(length, length).triu(1).bool(), persistent=False)
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.output = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, characters))

    def forward(self, codes: Tensor) -> Tensor:
        """Return the logits; each position depends on itself and those before it."""
        states = self.embedding(codes) + self.places
        states = states + self._attend(self.before_attention(states))
        logits: Tensor = self.output(states + self.perceptron(states))
        return logits

    def _attend(self, states: Tensor) -> Tensor:
        by_head = self.attention(states).unflatten(-1, (3 * self._heads, -1)).transpose(-3, -2)
        query, key, value = by_head.chunk(3, -3)
        # Written out: torch's fused attention has no rule for vmap, so packs would run member by member.
        weights = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
        seen = weights.masked_fill(self.later, -math.inf).softmax(-1) @ value
        mixed: Tensor = self.mix(seen.transpose(-3, -2).flatten(-2))
        return mixed
