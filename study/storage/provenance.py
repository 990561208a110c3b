"""The version of this code: the release, and the commit if the package lies in a git checkout."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("study", "hypergrad")


@cache
def commit(root: Path = Path(__file__).parents[2]) -> str | None:
    """Return the commit of the checkout at ``root``, with ``+changes`` if the code differs from it.

    Return None if the package is not in a checkout of its own (installed as a wheel, say) or there is no git.
    """
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", *_PACKAGES)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+changes" if changed else head


def release() -> str:
    """Return the version of the distribution, ``"unknown"`` if it is not installed."""
    try:
        return version("hypergrad-study")
    except PackageNotFoundError:
        return "unknown"


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
