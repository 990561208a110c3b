"""The interface between a study and any tracking service.

A service is a backend: a package with a module that has the functions of ``Backend``, listed in
``study.tracking.BACKENDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from study.config.loader import Study
from study.config.search_space import SearchState
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder

Say = Callable[[str], None]
"""Prints one line for the user."""


class TrackingError(RuntimeError):
    """The tracking service cannot be reached or used; the message is one line."""


class Tracker(Protocol):
    """Sends one study to a tracking service.

    Creating one sends nothing over the network. Reading, such as a link, changes nothing in the service; the
    first published record creates the study there. Every method may raise a ``TrackingError``, after
    which it can be called again: data sent twice are stored once.
    """

    @property
    def location(self) -> str:
        """The service's address for people, without a password."""

    @property
    def senders(self) -> int:
        """Number of trials that may be published at a time, each from its own thread."""

    def check(self) -> None:
        """Raise a TrackingError if the service cannot be used; wait for one that is only busy."""

    def begin(self) -> None:
        """Mark the study as running, and store its file. Only for the driver that holds the lock."""

    def is_complete(self, record: TrialRecord) -> bool:
        """Return whether the trial has ended and the service has all its data."""

    def publish(self, record: TrialRecord) -> None:
        """Send the part of a trial's record that the service lacks; mark the trial as ended if it has."""

    def withdraw(self, record: TrialRecord) -> None:
        """Delete what ``publish`` just created for a trial if another driver stored the trial meanwhile.

        Only for a driver that was suspended while it published, and lost the lock to the other.
        """

    def log_search(self, state: SearchState) -> None:
        """Store the state of the study's search; nothing if it has no search."""

    def log_report(self, folder: Path) -> None:
        """Store the report's files with the study; nothing if the service does not have the study."""

    def close(self, *, completed: bool) -> None:
        """Mark the study as finished, or as interrupted with trials left to run."""

    def study_link(self) -> str | None:
        """Return the address of the web page of the study's trials; None if no server shows it now."""

    def trial_link(self, key: str) -> str | None:
        """Return the address of the web page of the trial with this key; None if there is none."""

    def curve_link(self, key: str) -> str | None:
        """Return the address of the file with every iteration of a trial; None if there is none."""

    def optimizer_link(self, workload: str, optimizer: str) -> str | None:
        """Return the address of the page of an optimizer's trials on a workload; None if there is none."""


class Page(NamedTuple):
    """A web page that shows studies."""

    url: str
    served_here: bool
    """Whether this process serves it, and must stay while somebody reads it."""


class Backend(Protocol):
    """The module of a tracking service, which ``study.tracking`` imports at first use."""

    def open_tracker(self, study: Study, uri: str, folder: StudyFolder, say: Say) -> Tracker:
        """Return a tracker of ``study`` in the service at ``uri``; nothing is sent yet."""

    def fetch(self, uri: str, folder: StudyFolder) -> dict[str, float]:
        """Copy a study from the service into ``folder``; see ``study.tracking.fetch``."""

    def show(self, uri: str, name: str | None, port: int, say: Say) -> AbstractContextManager[Page]:
        """Return a context in which a web page shows a study; see ``study.tracking.show``."""
