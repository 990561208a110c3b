"""A synthetic text to model letter by letter: English sentences from a small grammar, always the same.

Why no book: a text in a package changes with the package's version, but a trial's key must always mean the
same computation. Here the text is its program, and its entropy is known: every choice is drawn with known
odds, and a text can come about in only one way, so the sum of −ln p over its choices is its information: 0.48
nats per character. No model of any size can have a lower loss, and one that knows only how common each
character is has 2.88.

A model can learn, by distance: spelling (a lexicon of about 120 words of very different frequency); word
order; verbs that agree in number with a noun a clause away; brackets that close; a pronoun for an earlier
name.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

__all__ = ["ALPHABET", "sentences", "text"]

ALPHABET = "\n (),.?abcdefghijklmnopqrstuvwxyz"

T = TypeVar("T")

_NOUNS = (
    *("river", "house", "child", "engine", "letter", "garden", "teacher", "window", "mountain", "lantern"),
    *("bridge", "farmer", "kettle", "sparrow", "village", "carpet", "doctor", "forest", "ladder", "market"),
    *("needle", "orchard", "pilot", "quarry", "ribbon", "saddle", "tunnel", "violin", "wagon", "anchor"),
)
_PLURALS = {"child": "children", "quarry": "quarries"}
_VERBS = (
    *("see", "follow", "carry", "remember", "watch", "paint", "repair", "visit", "hide", "measure"),
    *("describe", "surround", "forget", "protect", "borrow", "admire", "ignore", "welcome"),
)
_THIRD = {"carry": "carries", "watch": "watches"}
_INTRANSITIVE = ("sleep", "wait", "fall", "return", "sing", "vanish", "tremble", "arrive", "shine", "wander")
_ADJECTIVES = (
    *("old", "small", "quiet", "broken", "yellow", "careful", "distant", "heavy", "narrow", "patient"),
    *("silver", "wooden", "hungry", "gentle", "crooked", "famous"),
)
_ADVERBS = ("slowly", "often", "never", "again", "at night", "in the morning", "without a sound", "today")
_PREPOSITIONS = ("near", "behind", "under", "beside", "above", "inside", "beyond")
_NAMES = (("anna", "she"), ("peter", "he"), ("maria", "she"), ("oskar", "he"), ("ruth", "she"), ("tom", "he"))
_NUMBERS = ("two", "three", "four", "seven", "twelve")


def text(length: int, seed: int) -> str:
    """Return the first ``length`` characters of the seed's text; all are in ``ALPHABET``."""
    parts: list[str] = []
    written = 0
    for sentence, _ in sentences(seed):
        parts.append(sentence)
        written += len(sentence)
        if written >= length:
            break
    return "".join(parts)[:length]


def sentences(seed: int) -> Iterator[tuple[str, float]]:
    """Yield sentences without end, each with its information in nats."""
    draw = _Draw(random.Random(seed))
    while True:
        draw.nats = 0.0
        words = _question(draw) if draw.chance(0.1) else _statement(draw)
        yield _spelled(words) + ("\n" if draw.chance(0.2) else " "), draw.nats


class _Draw:
    """Draws choices with known odds and adds up their information.

    It uses only ``Random.random``, whose sequence Python promises to keep for a seed.
    """

    def __init__(self, source: random.Random) -> None:
        self._uniform = source.random
        self.nats = 0.0

    def chance(self, odds: float) -> bool:
        """Return True with these odds."""
        happens = self._uniform() < odds
        self.nats -= math.log(odds if happens else 1 - odds)
        return happens

    def one(self, choices: Sequence[T]) -> T:
        """Return the k-th choice, from 0, with odds in proportion to 1/(k + 2)."""
        odds = list(itertools.accumulate(1 / (k + 2) for k in range(len(choices))))
        k = min(bisect.bisect_right(odds, self._uniform() * odds[-1]), len(choices) - 1)
        self.nats += math.log(odds[-1] * (k + 2))
        return choices[k]


def _statement(draw: _Draw) -> list[str]:
    plural = False
    if draw.chance(0.25):
        name, pronoun = draw.one(_NAMES)
        words = [name]
        if draw.chance(0.2):
            words += ["(", "who", *_predicate(draw, plural), ")"]
    else:
        plural = draw.chance(0.4)
        pronoun = "they" if plural else "it"
        words = _noun_phrase(draw, plural)
    words += _predicate(draw, plural)
    if draw.chance(0.3):
        words += [",", draw.one(("and", "but", "because")), pronoun, *_predicate(draw, plural)]
    return [*words, "."]


def _question(draw: _Draw) -> list[str]:
    plural = draw.chance(0.4)
    return ["do" if plural else "does", *_noun_phrase(draw, plural), *_predicate(draw, True), "?"]


def _noun_phrase(draw: _Draw, plural: bool, depth: int = 0) -> list[str]:
    words = [draw.one(("the", "many", *_NUMBERS) if plural else ("the", "a", "every"))]
    while draw.chance(0.3):
        words.append(draw.one(_ADJECTIVES))
    noun = draw.one(_NOUNS)
    words.append(_PLURALS.get(noun, noun + "s") if plural else noun)
    if depth < 2 and draw.chance(0.2):
        words += ["that", *_predicate(draw, plural, depth + 1)]
    return words


def _predicate(draw: _Draw, plural: bool, depth: int = 0) -> list[str]:
    """Return a verb, third person unless ``plural``, with its object, place or adverb."""
    transitive = draw.chance(0.6)
    verb = draw.one(_VERBS if transitive else _INTRANSITIVE)
    words = [verb if plural else _THIRD.get(verb, verb + "s")]
    if transitive:
        words += _noun_phrase(draw, draw.chance(0.4), depth + 1)
    elif draw.chance(0.5):
        words += [draw.one(_PREPOSITIONS), *_noun_phrase(draw, draw.chance(0.4), depth + 1)]
    elif draw.chance(0.5):
        words.append(draw.one(_ADVERBS))
    return words


def _spelled(words: Sequence[str]) -> str:
    """Return the words with spaces as in English, and ``an`` before a vowel."""
    spelled = ""
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == "a" and following[0] in "aeiou":
            word = "an"
        glued = word in (",", ".", "?", ")") or spelled.endswith("(") or not spelled
        spelled += word if glued else f" {word}"
    return spelled
