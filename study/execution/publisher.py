"""Sends the records of a running study to its tracker, and reports progress."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from study.analysis.progress_rows import RowMaker
from study.analysis.time_left import training_left
from study.config.search_space import NOTHING_FOUND
from study.config.trial import Trial
from study.execution.live_records import LiveRecords
from study.storage.progress import OnProgress, Progress, progress_of
from study.storage.records import TrialRecord
from study.tracking import Tracker, TrackingError

POLL_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""Pause between two attempts while the tracker is away."""
LIVE_SHARE = 0.05
"""Share of the driver's time that may go into sending unfinished trials. The driver shares its cores with
the workers. Trials that have ended are sent at once."""
TURN_SECONDS = 5.0
"""After this time of sending, the journals are read and the progress is reported before sending continues."""


class Uploader:
    """Sends records to a tracker, several at a time; records that it refuses are sent again later.

    Args:
        tracker: The tracker.
        may_send: Called before and after each record. A driver whose study was taken over by another must
            not send, and withdraws a record that it sent meanwhile.

    Attributes:
        error: Why the last attempt failed; None if it succeeded.
    """

    def __init__(self, tracker: Tracker, may_send: Callable[[], bool] = lambda: True) -> None:
        self.error: str | None = None
        self._tracker, self._may_send = tracker, may_send
        self._unsent: dict[str, None] = {}
        """Keys of trials to send, in the order in which they changed."""
        self._next_live = 0.0
        self._final, self._final_seconds, self._live_seconds = 0, 0.0, 0.0
        self._counting = threading.Lock()
        self._sent_search = NOTHING_FOUND

    def send(self, live: LiveRecords, *, everything: bool = False) -> bool:
        """Send the records that changed since they were last sent; return whether more are due at once.

        Args:
            live: The records.
            everything: Whether to send unfinished trials even if some were sent a short while ago.
        """
        self.error = None
        self._unsent |= dict.fromkeys(live.take_changed())
        try:
            self._send_search(live)
            return self._send_records(live, everything)
        except TrackingError as error:
            self.error = str(error)
        return False

    def seconds_for(self, trials: int) -> float:
        """Return the seconds that sending a number of ended trials takes; 0 before the first was sent."""
        return trials * self._final_seconds / max(1, self._final)

    @property
    def unsent(self) -> int:
        """Number of trials that changed since they were last sent."""
        return len(self._unsent)

    def _send_search(self, live: LiveRecords) -> None:
        if live.search_state != self._sent_search:
            self._tracker.log_search(live.search_state)
            self._sent_search = live.search_state

    def _send_records(self, live: LiveRecords, everything: bool) -> bool:
        sends_live = everything or time.monotonic() >= self._next_live
        due = deque(record for record in map(live.record, self._unsent) if sends_live or record.is_final)
        senders = min(self._tracker.senders, len(due))
        if not senders:
            return False
        until = time.monotonic() + TURN_SECONDS
        before = self._live_seconds
        leaving = threading.Event()
        with ThreadPoolExecutor(senders, thread_name_prefix="sender") as pool:
            try:
                for _ in pool.map(lambda _: self._send_each(due, senders, until, leaving), range(senders)):
                    pass
            finally:
                leaving.set()  # after an error, let only the requests under way finish
        if sends_live:
            spent = self._live_seconds - before
            self._next_live = time.monotonic() + spent * (1 / LIVE_SHARE - 1)
        return bool(due) and time.monotonic() >= until

    def _send_each(
        self, due: deque[TrialRecord], senders: int, until: float, leaving: threading.Event
    ) -> None:
        """Send one record after the other. Several threads run this at the same time."""
        while time.monotonic() < until and not leaving.is_set() and self._may_send():
            try:
                record = due.popleft()
            except IndexError:
                return
            begun = time.monotonic()
            try:
                if not self._tracker.is_complete(record):
                    self._tracker.publish(record)
                    if not self._may_send():
                        self._tracker.withdraw(record)
            except BaseException:
                leaving.set()
                raise
            seconds = time.monotonic() - begun
            with self._counting:
                del self._unsent[record.trial.key]
                if record.is_final:
                    self._final += 1
                    self._final_seconds += seconds / senders
                else:
                    self._live_seconds += seconds


class RunPublisher:
    """Follows a running study in its own thread, from ``start`` to ``finish``.

    Args:
        live: The study's records.
        uploader: Sends the records to the tracker.
        on_progress: Called once per second with the current progress.
        end_seconds: Returns the seconds from the end of the last trial to the end of the program, report
            included; None if unknown. Called with the time at which the first trial began, in Unix
            milliseconds.
    """

    def __init__(
        self,
        live: LiveRecords,
        uploader: Uploader,
        on_progress: OnProgress,
        end_seconds: Callable[[int], float | None] = lambda first_ms: None,
    ) -> None:
        self._live, self._uploader, self._on_progress = live, uploader, on_progress
        self._end_seconds = end_seconds
        self._rows = RowMaker(live.study.threshold)
        self._slots = 1
        self._bundles: Sequence[Sequence[Trial]] = ()
        self._expected: Mapping[str, float] = {}
        self._since_ms = _now_ms()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="publisher", daemon=True)

    def start(self, slots: int) -> None:
        """Begin to follow the study; ``slots`` trials run at a time."""
        self._slots = slots
        self._since_ms = _now_ms()
        self._report()
        self._thread.start()

    def expect(self, bundles: Sequence[Sequence[Trial]], expected: Mapping[str, float]) -> None:
        """Set the expectations from which the time left is estimated.

        Args:
            bundles: The trials that each worker process is to train.
            expected: Seconds that trials took in earlier runs, by key.
        """
        self._bundles, self._expected = bundles, expected

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> Progress:
        """Stop following, send everything, and return the progress of the study."""
        self.stop()
        self._live.refresh()
        while self._uploader.send(self._live, everything=True):
            self._report()
        return self._report(is_over=True)

    def _follow(self) -> None:
        pause = POLL_SECONDS
        while not self._stop.wait(pause):
            self._live.refresh()
            has_more = self._uploader.send(self._live)
            pause = RETRY_SECONDS if self._uploader.error else 0.0 if has_more else POLL_SECONDS
            self._report()

    def _report(self, *, is_over: bool = False) -> Progress:
        records = self._live.all_records
        progress = progress_of(records)
        progress = replace(
            progress,
            tracking_error=self._uploader.error,
            rows=self._rows.rows(records),
            seconds_left=None if is_over else self._seconds_left(progress),
            phase="" if is_over else self._phase(progress),
        )
        self._on_progress(progress)
        return progress

    def _seconds_left(self, progress: Progress) -> float | None:
        training = training_left(
            self._live.all_records,
            self._since_ms,
            _now_ms(),
            slots=self._slots,
            bundles=self._bundles,
            expected=self._expected,
        )
        if training is None:
            return None
        unsent = progress.total - progress.done - progress.failed + self._uploader.unsent
        first = min(r.resumed_ms for r in self._live.records if r.resumed_ms >= self._since_ms)
        end = self._end_seconds(first) or 0.0
        if self._live.study.search is not None and not self._bundles:
            end += (first - self._since_ms) / 1000  # the best points are trained by workers that start anew
        return max(training, self._uploader.seconds_for(unsent)) + end

    def _phase(self, progress: Progress) -> str:
        begun = any(record.resumed_ms >= self._since_ms for record in self._live.records)
        if not begun and progress.done + progress.failed < progress.total:
            return "the workers start and load the data"
        return ""


def _now_ms() -> int:
    return int(time.time() * 1000)
