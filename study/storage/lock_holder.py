"""Tells who holds a driver's lock and, of a process on this machine, whether it lives."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shlex
import socket
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_COMMAND_LENGTH = 200


@dataclass(frozen=True)
class Holder:
    """A driver, as its lock file describes it.

    ``pid`` and ``process_start`` belong to the machine, and the container on it, that ``place`` identifies.
    """

    id: str
    host: str = ""
    place: str = ""
    pid: int = 0
    process_start: str = ""
    user: str = ""
    command: str = ""
    since: str = ""
    heartbeat: int = 0
    released: bool = False

    @classmethod
    def here(cls) -> Holder:
        """Return a description of this process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        # The lock file must not contain a password that is part of an address.
        command = re.sub(r"//[^/@\s]*@", "//", shlex.join(sys.argv))
        return cls(
            id=uuid.uuid4().hex,
            host=socket.gethostname(),
            place=this_place(),
            pid=os.getpid(),
            process_start=_process(os.getpid())[1],
            user=user,
            command=command if len(command) <= _COMMAND_LENGTH else command[:_COMMAND_LENGTH] + "…",
            since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        )

    @property
    def since_ms(self) -> int:
        """When the driver began, in Unix milliseconds; 0 if the lock file does not say."""
        with suppress(ValueError):
            return int(datetime.strptime(self.since, "%Y-%m-%d %H:%M:%S %z").timestamp() * 1000)
        return 0

    def __str__(self) -> str:
        if not self.host:
            return "a driver that the lock file does not name"
        return f"{self.user} on {self.host} (process {self.pid}: {self.command}), since {self.since}"


def read(path: Path) -> Holder | None:
    """Return the holder that the file describes: None without a file, one without a host if damaged."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        # Two damaged files must not have the same successor.
        return Holder(id=f"damaged-{hashlib.sha256(text).hexdigest()[:32]}")


def this_place() -> str:
    """Return an identifier of this machine since its last start, and of this container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def process_state(holder: Holder) -> str:
    """Return the state of the holder's process, if its place is this one; an empty state if it is gone.

    "T" is the state of a suspended process. A process that began at another time is another one, which the
    system has given the same number.
    """
    state, start = _process(holder.pid)
    return state if start in ("", holder.process_start) else ""


def _process(pid: int) -> tuple[str, str]:
    """Return the state of a process on this machine, and when it started; an empty state if it is gone.

    "T" is the state of a suspended process. The start is empty if the system does not give it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return "", ""
    else:
        return ("" if fields[0] in "ZX" else fields[0]), fields[19]
    import psutil  # only here, without /proc, as on macOS: a bare GPU machine may lack it

    try:
        process = psutil.Process(pid)
        state = {psutil.STATUS_ZOMBIE: "", psutil.STATUS_STOPPED: "T"}.get(process.status(), "?")
        return state, str(process.create_time())
    except psutil.NoSuchProcess:
        return "", ""
    except psutil.AccessDenied:
        return "?", ""
