"""Shell completion: names of presets and studies, and study files."""

from __future__ import annotations

from pathlib import Path

from study.config.loader import preset_names
from study.storage.study_folder import runs_folder


def studies(incomplete: str) -> list[str]:
    """Return the presets and study files that begin with the typed text."""
    typed = Path(incomplete)
    folder = typed if incomplete.endswith("/") else typed.parent
    files = [str(path) for path in folder.glob("*") if path.suffix in (".yaml", ".yml")]
    return [name for name in sorted([*preset_names(), *files]) if name.startswith(incomplete)]


def names(incomplete: str) -> list[str]:
    """Return the studies in the folder of runs whose names begin with the typed text."""
    known = sorted(path.parent.name for path in runs_folder().glob("*/study.yaml"))
    return [name for name in known if name.startswith(incomplete)]
