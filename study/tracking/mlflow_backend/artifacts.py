"""The files of a trial's run: every iteration, a picture of the curves, the journal, an error."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pyarrow.parquet as pq

from study.analysis.curves import curve_table
from study.config.loader import Study
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking.mlflow_backend.download import JOURNAL

CURVE_FILE = "curve.parquet"
"""File with every iteration."""
PICTURE_FILE = "curve.png"
"""Picture of the training loss and α, only for the first seed of each setting."""
MOST_PICTURES = 100
"""Largest number of pictures that a driver draws: each takes about as long as sending a short trial."""


class TrialFiles:
    """Writes the files of trials' runs; several threads may write at the same time.

    Args:
        study: The study.
        folder: The study's folder.
        with_journals: Whether the journals are among the files, so that the study can be fetched.
    """

    def __init__(self, study: Study, folder: StudyFolder, *, with_journals: bool) -> None:
        self._folder, self._with_journals = folder, with_journals
        self._first_seeds = {study.seeds[0], *(study.search.seeds[:1] if study.search else ())}
        self._pictures_left = MOST_PICTURES
        self._drawing = threading.Lock()  # only one thread at a time may use Matplotlib

    def write(self, record: TrialRecord, target: Path) -> None:
        """Write the files of a trial that has ended.

        Args:
            record: The trial's record.
            target: An empty folder.
        """
        if record.error:
            (target / "error.txt").write_text(record.error, encoding="utf-8")
        if record.epochs:
            pq.write_table(curve_table(record), target / CURVE_FILE)
            self._draw(record, target / PICTURE_FILE)
        journal = self._folder.journal(record.trial)
        if self._with_journals and journal.exists():
            shutil.copyfile(journal, target / JOURNAL)

    def _draw(self, record: TrialRecord, path: Path) -> None:
        if record.trial.seed not in self._first_seeds:
            return
        with self._drawing:
            if self._pictures_left:
                from study.tracking.mlflow_backend import picture  # Matplotlib takes a second to import

                self._pictures_left -= 1
                picture.draw(record, path)
