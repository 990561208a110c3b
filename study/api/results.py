"""The results of a study: tables as DataFrames, curves, and the report's figures."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa

from study.analysis import stored_trials, tables
from study.analysis.claim_table import claim_table
from study.analysis.claims import claims
from study.analysis.curves import CURVES, curve_rows
from study.analysis.formatting import join_names
from study.analysis.progress_text import describe
from study.analysis.untuned_claims import untuned_claim_table, untuned_claims
from study.api import notebook
from study.api.selection import select
from study.api.stored import fetch, find_run
from study.config.loader import ConfigError, Study
from study.storage.failures import Failure, failures
from study.storage.progress import Progress, progress_of
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder, runs_folder
from study.tracking.mlflow_backend.address import is_server, without_password

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from study.report.figures.base import Evidence


def load(name: str | Path, *, runs: str | Path | None = None, tracking: str | None = None) -> Results:
    """Load the results of a study that was run, or that runs now.

    ::

        results = study.load("quickstart")
        results.summary
        results.curves(optimizer="adam-adam", alpha0=0.01)
        results.figure1()

    Args:
        name: The study's name; or its file, to score its results again by the file as it is now.
        runs: The folder of runs. Default: ``HYPERGRAD_STUDY_RUNS``, or ``./runs``.
        tracking: Address of the MLflow server that has the study, ``http://…``. Its results are copied into
            ``runs`` if that is given, else into a temporary folder that lives as long as the results.
            Default: only ``runs`` is read.

    Raises:
        ConfigError: There is no such study, or its file is not valid.
        OSError: A journal cannot be read.
        TrackingError: The server cannot be reached or used.
    """
    if tracking is None:
        return Results(*find_run(str(name), runs_folder(_path(runs))))
    if not is_server(tracking):
        raise ConfigError(
            [f"tracking: {tracking!r} is not a server's address; write one such as http://127.0.0.1:5000"]
        )
    temporary = tempfile.TemporaryDirectory(prefix="hypergrad-study-") if runs is None else None
    folder = runs_folder(Path(temporary.name) if temporary else _path(runs))
    elsewhere = fetch(str(name), folder, tracking)
    if not StudyFolder(folder, str(name)).study_file.is_file():
        raise ConfigError([f"{name}: {without_password(tracking)} has no study of that name"])
    return Results(*find_run(str(name), folder), elsewhere=elsewhere, temporary=temporary)


class Results:
    """The results of one study as they stood when they were loaded; load them again to see newer ones.

    Loading reads how every trial stands and what was measured of it, and with that all tables are made. Of
    trials that have ended it keeps a summary in the study's folder, ``summary.npz``, so that later loads read
    no journal of theirs. ``curves``, ``epochs``, ``figure1``, ``figures`` and ``report`` read the journals of
    the trials that they show, each journal once, and only as far as it went when the results were loaded:
    the epochs that a running study has trained since are left out. If a journal has been removed, replaced
    or damaged since, they raise ``OSError``.

    Args:
        study: The study.
        folder: Its folder.
        elsewhere: The share done, by key, of trials that run where their journals cannot be read. None for
            no trials.
        temporary: The folder that holds ``folder``, to be removed with these results. None to keep it.
    """

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        *,
        elsewhere: dict[str, float] | None = None,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self.study = study
        self._folder, self._elsewhere, self._temporary = folder, elsewhere, temporary
        self._state = folder.search_state()
        self._planned = stored_trials.read_planned(study, folder, self._state)
        ahead = len(study.placeholder_trials(self._state))
        self._known = self._planned[: len(self._planned) - ahead]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def path(self) -> Path:
        """The study's folder."""
        return self._folder.path

    @property
    def progress(self) -> Progress:
        """How the study stands: counts of trials by how they ended."""
        progress = progress_of(self._planned, self._elsewhere)
        if self._temporary is None or progress.best is None:
            return progress
        # Users may keep the best trial longer than the folder with its journal.
        return replace(progress, best=self._planned.whole(self._planned.trials.index(progress.best.trial)))

    @property
    def failures(self) -> list[Failure]:
        """Why trials failed, each cause once."""
        return failures(self._planned.having("failed"))

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial: settings, outcome, and measures such as ``best_val_loss``.

        Of a search these are the trials of the best points, once there are some. A threshold that was not
        reached within the budget is NaN in ``iterations_to_threshold``.
        """
        return self._trials.copy()

    @property
    def summary(self) -> pd.DataFrame:
        """One row per workload, optimizer, α₀ and β: medians over seeds, with their ranges."""
        return self._summary.copy()

    @property
    def claims(self) -> pd.DataFrame:
        """One row per claim about an optimizer and its baseline, with effect, p and verdict.

        The baselines that the study file names under ``against`` are included.
        """
        return self._claims.copy()

    @property
    def untuned_claims(self) -> pd.DataFrame:
        """One row per claim that an optimizer needs no tuning, with ratio, p and verdict.

        These are the claims that the study file makes under ``untuned``; without that section there are no
        rows. ``claim`` is one of "needs no tuning", "reaches the tuned loss at its default" and "better at
        its default". ``optimizer`` claims it, and ``against`` is the other optimizer. ``ratio`` is the loss
        over the other's, ``bar`` what it has to stay below, and ``below`` the seeds where it does.

        ::

            results = study.load("no-tuning")
            results.untuned_claims.groupby(["claim", "optimizer"])["verdict"].value_counts()
        """
        return untuned_claim_table(untuned_claims(self._trials, self.study.untuned))

    def curves(
        self,
        *,
        optimizer: str | Collection[str] | None = None,
        alpha0: float | Collection[float] | None = None,
        beta: float | Collection[float] | None = None,
        seed: int | Collection[int] | None = None,
        workload: str | Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Return every iteration of the trials that match: α, minibatch training loss and hypergradient.

        ::

            curves = results.curves(optimizer=["sgd-sgd", "sgd-sgdn"], alpha0=0.01)
            curves.groupby(["optimizer", "iteration"])["alpha"].median().unstack(0).plot(logy=True)

        Args:
            optimizer: A name as in ``trials``, or several. Default: all, and so for the others.
            alpha0: α₀, or several.
            beta: β, or several.
            seed: A seed, or several.
            workload: A workload's name, or several.

        Returns:
            A row per trial and iteration, with the columns key, workload, optimizer, alpha0, beta, seed,
            iteration (from 1), alpha, train_loss and hypergradient.

        Raises:
            ValueError: No trial has such a value; the message lists those that there are.
            OSError: A journal cannot be read, or has lost epochs since the results were loaded.
        """
        found = self._matching(workload=workload, optimizer=optimizer, alpha0=alpha0, beta=beta, seed=seed)
        parts = [curve_rows(record) for record in found if record.iterations]
        table: pd.DataFrame = pa.concat_tables([CURVES.empty_table(), *parts]).to_pandas()
        return table

    def epochs(
        self,
        *,
        optimizer: str | Collection[str] | None = None,
        alpha0: float | Collection[float] | None = None,
        beta: float | Collection[float] | None = None,
        seed: int | Collection[int] | None = None,
        workload: str | Collection[str] | None = None,
    ) -> pd.DataFrame:
        """Return every epoch of the trials that match: validation loss, accuracy, means of α and loss.

        Args:
            optimizer: See ``curves``, and so for the others.
            alpha0: α₀, or several.
            beta: β, or several.
            seed: A seed, or several.
            workload: A workload's name, or several.

        Returns:
            A row per trial and epoch, with the columns key, workload, optimizer, alpha0, beta, seed, epoch
            (from 1), iteration (the epoch's last), alpha and train_loss (means over the epoch), val_loss,
            val_accuracy and seconds.

        Raises:
            ValueError: No trial has such a value; the message lists those that there are.
            OSError: See ``curves``.
        """
        settings = ("key", "workload", "label", "alpha0", "beta", "seed")
        columns = ("key", "workload", "optimizer", "alpha0", "beta", "seed", "epoch", "iteration", "alpha")
        found = self._matching(workload=workload, optimizer=optimizer, alpha0=alpha0, beta=beta, seed=seed)
        rows = [
            (
                *(getattr(record.trial, name) for name in settings),
                *(epoch.epoch, epoch.last_iteration, epoch.alpha_epoch, epoch.train_loss_epoch),
                *(epoch.val_loss, epoch.val_accuracy, epoch.seconds),
            )
            for record in found
            for epoch in record.epochs
        ]
        table = pd.DataFrame(rows, columns=[*columns, "train_loss", "val_loss", "val_accuracy", "seconds"])
        return table.astype({"beta": float})

    def figure1(self, alpha0: float | None = None) -> Figure:
        """Draw the paper's Figure 1: α, training loss and validation loss over epochs, medians over seeds.

        Args:
            alpha0: The α₀ to show. Default: 0.001, or else the middle one of each optimizer.

        Raises:
            ValueError: No trial has finished an epoch, or the study has no such α₀.
            OSError: See ``curves``.
        """
        from study.report.figures import training_curves

        notebook.show_figures()
        return training_curves.figure1(self._records, self.study, alpha0, state=self._state)

    def sensitivity(self, workload: str | None = None) -> Figure:
        """Draw iterations to the threshold and final loss over α₀, for each optimizer.

        Args:
            workload: The workload's name. Default: the study's only one.

        Raises:
            ValueError: There are several workloads and none is named, or fewer than two α₀ have trials that
                ended.
        """
        named = tuple(dict.fromkeys(self._trials["workload"]))
        if workload is None and len(named) > 1:
            raise ValueError(f"the study has several workloads; give workload= one of {join_names(named)}")
        return self._figure("alpha0", select(self._trials, {"workload": workload}))

    def step_sizes(self) -> Figure:
        """Draw the step-size profile: the share of α₀ at which an optimizer is near its best."""
        return self._figure("step-size-profile")

    def best_of_k(self) -> Figure:
        """Draw the expected best loss after K points of α₀ and β were tried."""
        return self._figure("best-of-k")

    def runtime(self) -> Figure:
        """Draw the share of trials that reached the threshold over the iterations that they took."""
        return self._figure("runtime")

    def performance(self) -> Figure:
        """Draw the performance profile over workloads."""
        return self._figure("performance")

    def figures(self) -> dict[str, Figure]:
        """Draw every figure of the report that has something to show, by its title."""
        from study.report.figures.registry import figures

        notebook.show_figures()
        return {drawn.title: drawn.figure for _, drawn in figures(self._evidence(self._trials))}

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the report, and return the path of its page.

        Args:
            folder: Where to write. Default: ``report`` in the study's folder.

        Raises:
            ValueError: No trial has finished an epoch.
            OSError: The folder cannot be written, or see ``curves``.
        """
        from study.report import builder

        place = self._folder.report if folder is None else Path(folder)
        return builder.write_report(self._known, self.study, place, state=self._state).page

    def __repr__(self) -> str:
        return f"<Results of {self.name}: {describe(self.progress)}>"

    def _repr_html_(self) -> str:
        """Return how the study stands and its summary, for notebooks."""
        return notebook.study_html(self.study, self.progress, self._summary)

    @cached_property
    def _trials(self) -> pd.DataFrame:
        return tables.trial_table(self._known, self.study, self._state)

    @cached_property
    def _summary(self) -> pd.DataFrame:
        return tables.summary_table(self._trials)

    @cached_property
    def _claims(self) -> pd.DataFrame:
        return claim_table(claims(self._trials, named=self.study.named_baselines()))

    @cached_property
    def _records(self) -> list[TrialRecord]:
        """The records of the trials in ``trials``, in their order."""
        known = {record.trial.key: record for record in self._known}
        return [known[key] for key in self._trials["key"]]

    def _matching(self, **wanted: object) -> list[TrialRecord]:
        """Return the records of the trials that have these settings; None for any."""
        keys = set(select(self._trials, wanted)["key"])
        return [record for record in self._records if record.trial.key in keys]

    def _figure(self, stem: str, rows: pd.DataFrame | None = None) -> Figure:
        from study.report.figures.registry import FIGURES

        notebook.show_figures()
        module = next(module for module in FIGURES if stem == module.STEM)
        evidence = self._evidence(self._trials if rows is None else rows)
        if (drawn := next(module.draw(evidence), None)) is None:
            raise ValueError(f"{self.name}: there are no finished trials that this figure can show")
        return drawn.figure

    def _evidence(self, rows: pd.DataFrame) -> Evidence:
        from study.report.figures.base import Evidence

        keys = set(rows["key"])
        records = [record for record in self._records if record.trial.key in keys]
        return Evidence(self.study, records, rows, self._state, self._known)


def _path(runs: str | Path | None) -> Path | None:
    return None if runs is None else Path(runs)
