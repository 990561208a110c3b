"""Interrupts the main thread from another one, as Ctrl-C would.

It uses a signal of its own, because a shell lets background jobs ignore SIGINT; and a signal, because it also
wakes the main thread from a system call.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Let ``interrupt`` raise KeyboardInterrupt in the main thread, which must enter this context."""
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)


def interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, which must be within ``interruptible``."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
