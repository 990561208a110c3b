"""Lets only one driver run a study at a time, on any machine, by a lock file in the study's folder.

The file names its holder, who renews it every few seconds. A holder counts as dead when its process is gone
from this machine, or, on another machine, when the file has not *changed* for a while; clocks are never
compared. Nobody deletes the file. Each holder has at most one successor: a driver that takes over writes a
complete file and links it to a name that contains the holder's identifier, which only one process can do, and
then renames it to the lock file. A driver that was suspended while another took over writes to its own file,
which nobody reads any more, and stops when it notices. Before it writes anything that must not be written
twice it asks ``DriverLock.held``, which reads the lock file again after a pause.

The file system must show every finished write to readers, which journals need too, and have hard links: a
local disk, NFS or Lustre, but not a bucket that is mounted as a folder.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from study.storage import interrupt, lock_holder
from study.storage.lock_holder import Holder

HEARTBEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0
_SIZE = 4096


class DriverLockError(RuntimeError):
    """Another driver holds the lock, or has taken it over."""


class DriverLock:
    """The right to run a study, which the main thread of a process holds within the context.

    Another driver takes it over if this one was suspended for longer than ``dead_after``. Then the main
    thread is interrupted at the next heartbeat, and the context ends with a ``DriverLockError`` in place
    of the KeyboardInterrupt.

    Args:
        path: The lock file. Its folder is created if absent.
        on_message: Called with a one-line message before the driver waits to see whether another holder
            lives.
        every: Seconds between two heartbeats.
        dead_after: Seconds without a heartbeat after which a holder on another machine counts as dead.

    Raises:
        DriverLockError: On entering, another driver holds the lock; on leaving, another has taken it over.
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        on_message: Callable[[str], None] = lambda line: None,
        *,
        every: float = HEARTBEAT_SECONDS,
        dead_after: float = DEAD_SECONDS,
    ) -> None:
        self._path = path
        self._on_message = on_message
        self._every, self._dead_after = every, dead_after
        self._holder = Holder.here()
        self._file = -1
        self._taken: str | None = None
        self._seen = _now()
        self._stop = threading.Event()
        self._interruptible = interrupt.interruptible()
        self._thread = threading.Thread(target=self._beat, name="driver-lock", daemon=True)

    def held(self) -> bool:
        """Return whether this process still holds the lock; the answer is at most ``dead_after`` / 2 old."""
        if self._taken is None and _now() - self._seen > self._dead_after / 2:
            self._look()
        return self._taken is None

    def check(self) -> None:
        """Raise a DriverLockError if this process no longer holds the lock."""
        if not self.held():
            raise DriverLockError(self._taken)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._acquire()
        self._seen = _now()
        self._interruptible.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        try:
            self._thread.join()
        finally:
            self._interruptible.__exit__(None, None, None)
            with suppress(OSError):  # Others will see that this process is gone.
                self._write(released=True)
            os.close(self._file)
            self.check()

    def _acquire(self) -> None:
        while not self._create(self._path):
            chain = _chain(self._path)
            if not chain:
                continue
            last, holder = chain[-1]
            if not self._outlives(holder, last):
                continue
            successor = _successor(self._path, holder)
            if not self._create(successor):
                continue
            if self._is_last():
                # Rename link by link, so that the chain leads here at any moment. A link is gone if a holder
                # that counted as dead has woken and renamed it.
                places = [place for place, _ in chain]
                for place in reversed(places):
                    with suppress(FileNotFoundError):
                        successor.replace(place)
                    successor = place
                if self._is_last():
                    return
            else:  # Meanwhile another process has succeeded the holder and become the lock file.
                successor.unlink(missing_ok=True)
            os.close(self._file)

    def _is_last(self) -> bool:
        chain = _chain(self._path)
        return bool(chain) and chain[-1][1].id == self._holder.id

    def _create(self, place: Path) -> bool:
        """Make ``place`` this holder's file unless there is a file; nobody ever sees it incomplete."""
        made = self._path.with_name(f"{self._path.name}.by-{self._holder.id}")
        self._file = os.open(made, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._write()
            with suppress(FileExistsError):
                os.link(made, place)
            # Ask the file: if NFS loses a reply, a link that was made looks refused.
            if os.fstat(self._file).st_nlink > 1:
                return True
            os.close(self._file)
            return False
        finally:
            made.unlink()

    def _outlives(self, holder: Holder, place: Path) -> bool:
        """Return True once ``holder`` is dead or has released the lock, False if its file left ``place``.

        Raises:
            DriverLockError: The holder is alive.
        """
        if holder.released:
            return True
        if holder.place == self._holder.place:
            state = lock_holder.process_state(holder)
            if not state:
                return True
            suspended = "; that process is suspended" if state == "T" else ""
            raise DriverLockError(f"is being run by {holder}{suspended}")
        self._on_message(
            f"it was run by {holder}; looking for up to {self._dead_after:g} s whether that is still so"
        )
        deadline = time.monotonic() + self._dead_after
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._every / 2))
            now = lock_holder.read(place)
            if now is None or (now.host and now.id != holder.id):
                return False
            if now.released:
                return True
            if now.host and now != holder:
                raise DriverLockError(f"is being run by {now}")
        return True

    def _write(self, *, released: bool = False) -> None:
        """Renew the file that this process created, under its present name."""
        self._holder = replace(self._holder, heartbeat=self._holder.heartbeat + 1, released=released)
        text = json.dumps(asdict(self._holder), indent=1).encode()
        os.pwrite(self._file, text.ljust(_SIZE) + b"\n", 0)
        os.fsync(self._file)

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            with suppress(OSError):  # The storage is away, or the file was replaced; `_look` finds out.
                self._write()
            self._look()
            if self._taken is not None:
                interrupt.interrupt()
                return

    def _look(self) -> None:
        begun = _now()
        try:
            chain = _chain(self._path)
        except OSError:
            return  # Look again when the storage is back.
        if chain and chain[-1][1].id == self._holder.id:
            self._seen = begun
            return
        if chain and not chain[-1][1].host:
            return  # It was being renewed.
        self._taken = (
            f"was taken over by {chain[-1][1]}, while this process was suspended or cut off"
            if chain
            else f"is no longer this process's: {self._path} is gone"
        )


def runner(path: Path) -> Holder | None:
    """Return the driver that holds the lock file and lives; None if there is none. Does not wait.

    A driver on another machine counts as living while its file is young by this machine's clock. That may be
    wrong by as much as the clocks differ, so use it only to inform people.
    """
    chain = _chain(path)
    if not chain or chain[-1][1].released or not chain[-1][1].host:
        return None
    place, holder = chain[-1]
    if holder.place == lock_holder.this_place():
        return holder if lock_holder.process_state(holder) else None
    with suppress(OSError):
        return holder if time.time() - place.stat().st_mtime < DEAD_SECONDS else None
    return None


def _successor(path: Path, holder: Holder) -> Path:
    return path.with_name(f"{path.name}.after-{holder.id}")


def _chain(path: Path) -> list[tuple[Path, Holder]]:
    """Return the lock file and the successors not yet renamed to it; the last one holds the lock."""
    chain: list[tuple[Path, Holder]] = []
    place = path
    while (holder := lock_holder.read(place)) is not None:
        chain.append((place, holder))
        place = _successor(path, holder)
    return chain


def _now() -> float:
    """Return seconds on a clock that runs while the machine sleeps, if the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
