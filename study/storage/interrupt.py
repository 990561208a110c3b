"""Interrupts the main thread from another one, as Ctrl-C would.

A signal of its own, because a shell lets background jobs ignore SIGINT, and because a signal also wakes the
main thread where it waits in a system call.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[None]:
    """Let ``interrupt`` raise KeyboardInterrupt in the main thread, which enters this context."""
    before = signal.signal(signal.SIGUSR2, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR2, before)


def interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, which is within ``interruptible``."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
