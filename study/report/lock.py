"""Keeps two programs from writing the same report at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock


@contextmanager
def only_writer(folder: Path, say: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Hold the report in ``folder`` against other programs, until it is written and sent.

    A run draws the report at its end, and the command ``report`` may do so at the same time. Without the
    lock one deletes files that the other is about to send to MLflow. Read the journals under the lock, or an
    older report may replace a newer one. On a file system without locks nothing is held.

    Args:
        folder: The report's folder. The lock is beside it, so that it is not sent with the report.
        say: Called with one line if another program writes the report now, which is waited for.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock")
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(blocking=False))
        except filelock.Timeout:
            say("another program is writing this report; waiting for it")
            held.enter_context(lock.acquire())
        except (OSError, NotImplementedError):
            pass  # no locks here; if the folder cannot be written either, writing the report says so
        yield
