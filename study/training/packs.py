"""Decides which trials may train together, and divides a list of trials into packs. It runs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from study.config.optimizer_name import OPTIMIZERS
from study.config.trial import Trial

Limit = Callable[[Trial], int]
"""Returns how many trials of a trial's kind fit into one pack; 1 if they do not pack."""


def unpackable_optimizer(trial: Trial) -> str | None:
    """Return why a trial's optimizer does not pack; None if it does."""
    if trial.optimizer not in OPTIMIZERS:
        return f"{trial.optimizer} is not one of hypergrad's"
    if trial.op == "muon":
        return "Muon knows no members"
    if trial.settings().get("schedule") is not None:
        return "its learning rate follows a schedule"
    return None


def group_packable(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials by kind, kinds in the order of their first trial, trials of one kind by seed.

    Trials of one seed come together, as they get the same batches.
    """
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.kind, []).append(trial)
    return [sorted(members, key=lambda trial: trial.seed) for members in found.values()]


def split_evenly(members: Sequence[Trial], pieces: int) -> list[list[Trial]]:
    """Split trials of one kind into ``pieces`` of about equal size, one after the other."""
    ends = [len(members) * (piece + 1) // pieces for piece in range(pieces)]
    return [list(members[begin:end]) for begin, end in zip([0, *ends], ends, strict=False) if end > begin]


def make_packs(trials: Iterable[Trial], limit: Limit) -> list[list[Trial]]:
    """Return packs, none larger than its limit: as few and as even as that allows."""
    made = []
    for members in group_packable(trials):
        pieces = 1 if len(members) == 1 else -(-len(members) // limit(members[0]))
        made += split_evenly(members, pieces)
    return made
