"""Sends what a running study's journals say to its tracker, and reports progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from study.config.search_space import NOTHING_FOUND
from study.execution.live_records import LiveRecords
from study.storage.progress import OnProgress, Progress, progress_of
from study.tracking import Tracker, TrackingError

POLL_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""Between two attempts while the tracker is away."""
LIVE_SHARE = 0.05
"""How much of the driver's time may go into sending trials under way. The driver shares its cores with the
workers. What has ended is sent at once."""


class Uploader:
    """Sends records to a tracker; what the tracker refuses is sent again later.

    Args:
        tracker: where to send them.
        may_send: asked before each record; a driver whose study was taken over by another must not send.

    Attributes:
        error: why the last attempt failed; None if it did not.
    """

    def __init__(self, tracker: Tracker, may_send: Callable[[], bool] = lambda: True) -> None:
        self.error: str | None = None
        self._tracker, self._may_send = tracker, may_send
        self._unsent: dict[str, None] = {}
        self._next_live = 0.0
        self._sent_search = NOTHING_FOUND

    def send(self, live: LiveRecords, *, everything: bool = False) -> None:
        """Send what changed since it was last sent.

        Args:
            live: the records.
            everything: send trials under way even if some were sent a short while ago.
        """
        self.error = None
        self._unsent |= dict.fromkeys(live.take_changed())
        try:
            self._send_search(live)
            self._send_records(live, everything)
        except TrackingError as error:
            self.error = str(error)

    def _send_search(self, live: LiveRecords) -> None:
        if live.search_state != self._sent_search:
            self._tracker.log_search(live.search_state)
            self._sent_search = live.search_state

    def _send_records(self, live: LiveRecords, everything: bool) -> None:
        sends_live = everything or time.monotonic() >= self._next_live
        spent = 0.0
        for key in list(self._unsent):
            record = live.record(key)
            if not (sends_live or record.is_final):
                continue
            if not self._may_send():
                return
            begun = time.monotonic()
            if not self._tracker.is_complete(record):
                self._tracker.publish(record)
            del self._unsent[key]
            if not record.is_final:
                spent += time.monotonic() - begun
        if sends_live:
            self._next_live = time.monotonic() + spent * (1 / LIVE_SHARE - 1)


class RunPublisher:
    """Follows a running study in a thread of its own, from ``start`` to ``finish``.

    Args:
        live: the study's records.
        uploader: sends them to the tracker.
        on_progress: called once per second with the current progress.
    """

    def __init__(self, live: LiveRecords, uploader: Uploader, on_progress: OnProgress) -> None:
        self._live, self._uploader, self._on_progress = live, uploader, on_progress
        self._slots = 1
        self._clock = _Clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="publisher", daemon=True)

    def start(self, slots: int) -> None:
        """Begin to follow the study; ``slots`` is how many trials run at a time."""
        self._slots = slots
        self._report()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> Progress:
        """Stop following, send all that there is, and return how the study stands."""
        self.stop()
        self._live.refresh()
        self._uploader.send(self._live, everything=True)
        return self._report()

    def _follow(self) -> None:
        while not self._stop.wait(RETRY_SECONDS if self._uploader.error else POLL_SECONDS):
            self._live.refresh()
            self._uploader.send(self._live)
            self._report()

    def _report(self) -> Progress:
        progress = progress_of(self._live.all_records, self._slots)
        progress = replace(progress, tracking_error=self._uploader.error)
        if self._live.study.search is not None:
            progress = replace(progress, seconds_left=self._clock.seconds_left(progress.share))
        self._on_progress(progress)
        return progress


class _Clock:
    """Estimates the time left of a search by the clock, as short trials cost less than what lies between."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def seconds_left(self, share: float) -> float | None:
        """Return the seconds left after ``share`` of the work, 0 to 1; None before there is progress."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, share
        begun, before = self._first
        return (now - begun) * (1 - share) / (share - before) if share > before else None
