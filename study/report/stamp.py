"""Decides whether a report is up to date with a study's journals, and need not be drawn again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from study.config.loader import Study
from study.storage import provenance
from study.storage.study_folder import StudyFolder

FILE = ".made-from"
CONCLUSION = "conclusion.txt"
"""The file in a report's folder with the result in one sentence."""


def content(study: Study, folder: StudyFolder, link: str | None) -> str | None:
    """Return a digest of all inputs of a report; None if they cannot be read.

    Args:
        study: The study.
        folder: The study's folder.
        link: Address of the page of the study's trials, with which the report's links begin; None for none.
    """
    commit = provenance.commit()
    if commit is not None and commit.endswith("+changes"):
        return None  # the code is being changed
    files = [folder.search_journal, *(folder.journal(trial) for trial in study.trials(folder.search_state()))]
    states = [(path.name, state.st_size, state.st_mtime_ns) for path in files if (state := _stat(path))]
    parts = [study.to_yaml(), provenance.release(), commit, link, states]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_current(folder: Path, made_from: str | None) -> bool:
    """Return whether the report in ``folder`` is complete and was made from this content."""
    try:
        whole = all((folder / name).is_file() for name in ("index.html", CONCLUSION))
        return whole and (folder / FILE).read_text() == made_from
    except OSError:
        return False


def remove(folder: Path) -> None:
    """Delete the stamp of the report in ``folder``; call this before writing the report again."""
    (folder / FILE).unlink(missing_ok=True)


def write(folder: Path, made_from: str | None) -> None:
    """Write the stamp of the report in ``folder``, after the whole report is written."""
    if made_from is not None:
        (folder / FILE).write_text(made_from)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
