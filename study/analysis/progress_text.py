"""Describes the progress of a study in one line."""

from __future__ import annotations

from datetime import datetime

from study.storage.progress import Progress


def describe(progress: Progress) -> str:
    """Return one line that describes the progress of a study."""
    parts = [f"{progress.done}/{progress.total} trials done"]
    parts += [
        f"{count} {what}"
        for count, what in (
            (progress.running, _running(progress.interrupted_ms)),
            (progress.diverged, "diverged"),
            (progress.pruned, "pruned"),
            (progress.failed, "failed"),
        )
        if count
    ]
    if progress.best is not None and progress.workloads == 1:
        best = progress.best.trial
        parts.append(f"best validation loss {progress.best_val_loss:.4g} ({best.workload} {best.name})")
    if progress.interrupted_ms is not None:
        if not progress.running:
            parts.insert(1, _running(progress.interrupted_ms))
    elif progress.seconds_left is not None and progress.done + progress.failed < progress.total:
        parts.append(f"about {duration(progress.seconds_left)} left")
    if progress.phase:
        parts.append(progress.phase)
    return ", ".join(parts)


def _running(interrupted_ms: int | None) -> str:
    if interrupted_ms is None:
        return "running"
    return f"interrupted at {datetime.fromtimestamp(interrupted_ms / 1000):%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min, 2.5 h, 4 days."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
