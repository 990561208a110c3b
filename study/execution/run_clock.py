"""The time of one run: when it must end, and how long its parts took, which later estimates use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from study.config.study import Study
from study.config.trial import Trial
from study.execution import order, speeds, time_estimate
from study.execution.live_records import LiveRecords
from study.execution.speeds import Speeds
from study.execution.time_estimate import Chain
from study.storage import interrupt

UNKNOWN_END = 60.0
"""Seconds for MLflow and the report, until a run on this machine has measured them."""
LARGEST_END = 0.2
"""Largest share of the budget that is kept for MLflow and the report."""
GRACE = 60.0
"""Seconds in which workers may end an epoch and write checkpoints, before they are stopped."""
MOST_OFF = 3.0
"""Largest factor by which this run's end is estimated to be slower or faster than earlier ones."""


@dataclass
class RunClock:
    """The times of a run: its start, its budget, and the speeds that its estimates use.

    Args:
        study: The study.
        began: When the program began, in Unix seconds.
        stop_at: When training ends, in Unix seconds, so that the report is ready when the budget is used up;
            None without a budget.
        speeds: The known speeds of this machine; None if trials train elsewhere.
    """

    study: Study
    began: float
    stop_at: float | None
    speeds: Speeds | None
    _slots: int = 1
    _ready: float = 0.0
    _packs: list[list[Trial]] = field(default_factory=list)

    @classmethod
    def of(cls, study: Study, trials: int, known: Speeds | None, began: float) -> RunClock:
        """Return the clock of a run that is about to train.

        Args:
            study: The study.
            trials: Number of trials in the study.
            known: The known speeds of this machine; None if trials train elsewhere.
            began: When the program began, in Unix seconds.
        """
        stop_at = None
        if study.budget is not None:
            whole = study.budget.hours * 3600
            end = None if known is None else known.end(trials)
            stop_at = began + whole - min(UNKNOWN_END if end is None else end, LARGEST_END * whole)
        return cls(study, began, stop_at, known)

    def end_seconds(self, first_ms: int) -> float | None:
        """Return the seconds that MLflow and the report take after the last trial; None if not known.

        If the start took longer than usual, because the machine does other things too, the end counts as
        slower by the same factor.

        Args:
            first_ms: When the first trial began, in Unix milliseconds.
        """
        if self.speeds is None or (usual := self.speeds.end(len(self.study.planned_trials()))) is None:
            return None
        if not self.speeds.start:
            return usual
        pace = (first_ms / 1000 - self.began) / self.speeds.start
        return usual * min(max(pace, 1 / MOST_OFF), MOST_OFF)

    @property
    def is_time_up(self) -> bool:
        """Whether no more training may begin."""
        return self.stop_at is not None and time.time() >= self.stop_at

    def ready(self, slots: int) -> None:
        """Record the number of workers, which can run from now on."""
        self._slots, self._ready = slots, time.time()

    def expect(self, chains: Sequence[Chain]) -> None:
        """Record trials that are about to train, or have trained."""
        self._packs += [pack for chain in chains for pack in chain]

    def expected_seconds(self) -> dict[str, float]:
        """Return the seconds that the trials to train took in earlier runs, by key, as far as known."""
        known = Speeds() if self.speeds is None else self.speeds
        found: dict[str, float] = {}
        for pack in self._packs:
            seconds = known.pack_seconds(pack, gpus=self.study.resources.gpus)
            if seconds is not None:
                found |= {trial.key: seconds / len(pack) for trial in pack}
        return found

    def has_time_for(self, chains: Sequence[Chain]) -> bool:
        """Return whether training all of these is sure to end in time."""
        if self.stop_at is None:
            return True
        known = Speeds() if self.speeds is None else self.speeds
        estimated = time_estimate.estimate(self.study, chains, self._slots, known)
        return order.fits(estimated.training, self.stop_at - time.time())

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Stop the workers that still train ``GRACE`` seconds after the time is up.

        Their trials resume from their last checkpoints. Enter this in the main thread.
        """
        if self.stop_at is None:
            yield
            return
        fired = threading.Event()

        def fire() -> None:
            fired.set()
            interrupt.interrupt()

        timer = threading.Timer(max(0.0, self.stop_at - time.time()) + GRACE, fire)
        timer.daemon = True
        with interrupt.interruptible():
            timer.start()
            try:
                yield
            except KeyboardInterrupt:
                if not fired.is_set():
                    raise
            finally:
                timer.cancel()

    def learn(self, live: LiveRecords) -> None:
        """Remember how fast trials trained on this machine."""
        if self.speeds is None or not self._packs:
            return
        records = {record.trial.key: record for record in live.records}
        learned = speeds.learn(
            self.speeds,
            self._packs,
            records,
            since_ms=int(self.began * 1000),
            ready_ms=int(self._ready * 1000),
            slots=self._slots,
            gpus=self.study.resources.gpus,
        )
        if learned is not self.speeds:
            speeds.save(speeds.home(), learned)
