"""Finds a study that was run: in a folder of runs, or on the tracking server that has it."""

from __future__ import annotations

import os
from pathlib import Path

from study.config import messages
from study.config.loader import ConfigError, Study, load_study
from study.config.validators import is_study_name
from study.storage.study_folder import StudyFolder


def find_run(source: str, runs: Path) -> tuple[Study, StudyFolder]:
    """Return a study that has been run, and its folder.

    ``source`` is a study's name, for the study as it was last run; or a study file, for the results of the
    study of that name, scored by the file as it is now.

    Raises:
        ConfigError: The study has not been run under ``runs``, or its file is not valid.
    """
    if is_study_name(source) and (folder := StudyFolder(runs, source)).study_file.is_file():
        return load_study(folder.study_file), folder
    if os.path.isfile(source):
        study = load_study(source)
        folder = StudyFolder(runs, study.name)
        if folder.study_file.is_file():
            return study, folder
    known = sorted(path.parent.name for path in runs.glob("*/study.yaml"))
    here = ", ".join(known) if known else "none"
    asked = messages.one_line(source, 100) or repr("")
    raise ConfigError([f"{asked}: no study of that name was run under {runs}; studies there: {here}"])


def fetch(name: str, runs: Path, uri: str) -> dict[str, float]:
    """Copy the study ``name`` from a server into a folder of runs; see ``study.tracking.fetch``.

    Raises:
        TrackingError: The server cannot be reached or used.
    """
    from study import tracking

    return tracking.fetch(tracking.tracking_uri(uri, runs), StudyFolder(runs, name))
