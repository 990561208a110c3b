"""Run Python code, the second argument, with everything that only Linux has hidden from hypergrad and study.

The names that CPython has on Linux but not on macOS are gone, and so are the module ``resource`` (which
Windows lacks), /proc and /sys. Other packages, named in the first argument, are imported before that, because
this does not test how portable they are.
"""

import importlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = (str(ROOT / "study"), str(ROOT / "hypergrad"))
LINUX_FOLDERS = ("/proc", "/sys")
# How their names begin; without those that the standard library keeps for itself when it is imported.
LINUX_ONLY = {
    os: (
        *(
            "EFD_",
            "GRND_",
            "MFD_",
            "O_DIRECT",
            "O_LARGEFILE",
            "O_NOATIME",
            "O_PATH",
            "O_RSYNC",
            "POSIX_FADV_",
        ),
        *("RWF_", "SCHED_", "SPLICE_", "copy_file_range", "eventfd", "fdatasync", "getrandom", "getresgid"),
        *(
            "getresuid",
            "memfd_create",
            "pidfd_open",
            "pipe2",
            "posix_fadvise",
            "posix_fallocate",
            "sched_get",
        ),
        *("sched_rr", "sched_set", "setns", "setresgid", "setresuid", "splice", "unshare"),
    ),
    select: ("epoll", "EPOLL"),
    signal: ("SIGCLD", "SIGPOLL", "SIGPWR", "SIGRT", "SIGSTKFLT", "pidfd_", "sigtimedwait", "sigwaitinfo"),
    socket: (
        "AF_ALG",
        "AF_NETLINK",
        "AF_PACKET",
        "AF_VSOCK",
        "SO_BINDTODEVICE",
        "SO_PEERCRED",
        "SOCK_CLOEXEC",
    ),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI", "pthread_getcpuclockid"),
}


def _asked_by_us() -> bool:
    """Whether the first caller outside the standard library is a file of hypergrad or study."""
    frame = sys._getframe(2)
    library = os.path.dirname(os.__file__)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            return True
        if "site-packages" in name or not name.startswith((library, "<frozen")):
            return False
        frame = frame.f_back
    return False


def _without_linux_folders(function):
    def wrapper(path, *args, **kwargs):
        if not isinstance(path, int) and os.fspath(path).startswith(LINUX_FOLDERS) and _asked_by_us():
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)

    return wrapper


def _refuse_linux_folders(event, arguments):
    if event == "open" and str(arguments[0]).startswith(LINUX_FOLDERS) and _asked_by_us():
        raise FileNotFoundError(2, "No such file or directory", arguments[0])


def main() -> None:
    """Import the other packages, hide what Linux has, run the code."""
    _, others, code = sys.argv[:3]
    for name in others.split():
        importlib.import_module(name)
    for module, beginnings in LINUX_ONLY.items():
        for name in [name for name in dir(module) if name.startswith(beginnings)]:
            delattr(module, name)
    sys.modules["resource"] = None
    sys.platform = "darwin"
    sys.addaudithook(_refuse_linux_folders)
    for name in ("lstat", "readlink", "stat"):
        setattr(os, name, _without_linux_folders(getattr(os, name)))
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
