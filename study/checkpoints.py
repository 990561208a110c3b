"""Checkpoints of trials under way: written whole or not at all, read as what they are or not used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SECONDS = 30.0
"""Between two checkpoints of a trial, so that short trials write none."""


def load(path: Path, recorded: int) -> dict[str, Any] | None:
    """Return the state at ``path``; None if there is none that is whole and that the journal knows of.

    Args:
        path: where :func:`save` wrote it; whatever else is there is removed.
        recorded: epochs that the trial's journal has. A checkpoint that is ahead of it is not used.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:
        path.unlink(missing_ok=True)
        return None
    if isinstance(state, dict) and 0 < state.get("epoch", 0) <= recorded:
        return state
    return None


def save(states: Mapping[Path, dict[str, Any]]) -> None:
    """Replace checkpoints. Those of a pack are replaced together, as far as a file system can do that."""
    drafts = {}
    for path, state in states.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        drafts[path] = path.with_suffix(".new")
        torch.save(state, drafts[path])
    for path, draft in drafts.items():
        draft.replace(path)
