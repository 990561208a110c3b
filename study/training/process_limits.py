"""Limits of this process on its machine: CPU cores, memory, open files. Needs no torch and no Linux."""

from __future__ import annotations

import contextlib
import os
import re
from importlib import import_module
from pathlib import Path


def cpu_count() -> int:
    """Return the number of CPU cores that this process may run on.

    macOS cannot bind a process to some of the cores, so there it is the number of all.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> float:
    """Return the bytes of memory that are available, at most a container's limit."""
    free = _available_memory()
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            free = min(free, float(Path(limit).read_text()))
    return free


def allow_open_files(count: int) -> None:
    """Let the process open ``count`` files beside 256 others, as far as its hard limit allows."""
    try:
        import resource
    except ImportError:  # Windows, where there is no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def _available_memory() -> float:
    # On Linux without psutil, which a bare GPU machine may lack.
    with contextlib.suppress(OSError):
        if found := re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text()):
            return 1024.0 * int(found[1])
    with contextlib.suppress(ImportError):
        return float(import_module("psutil").virtual_memory().available)
    return 4e9
