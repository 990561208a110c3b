"""Helpers for error messages: shorten values, suggest close names, keep text on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def show(value: object) -> str:
    """Return a short form of a value for a message, without the content of lists, which may be huge."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= 40 else value[:39] + "…")
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return repr(value)[:40]


def suggest(word: object, known: Iterable[str]) -> str:
    """Return ``did you mean X?``, or all known words if none is close."""
    known = list(known)
    close = difflib.get_close_matches(word[:100].lower(), known, n=1) if isinstance(word, str) else []
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def one_line(text: str, limit: int = 300) -> str:
    """Return ``text`` without control characters or line breaks, cut to ``limit`` characters."""
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def describe_error(error: BaseException) -> str:
    """Return an exception's type and message on one line: ``ValueError: what was wrong``."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or the name of its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'X'?)"``, or nothing if no known word is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
