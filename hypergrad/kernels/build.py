"""Compile ``cpu.c`` with the system's compiler on first use, and load it.

The libraries (one per element type, about a second each) stay in the user's cache folder:
``HYPERGRAD_CACHE``, else ``hypergrad`` in ``XDG_CACHE_HOME`` or ``~/.cache``. A library's name holds the hash
of all that goes into it, so that a new source, compiler or processor makes a new one.
``HYPERGRAD_KERNELS=0`` switches the kernels off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("cpu.c")
# No -ffast-math and no contraction, so that an element's bits do not depend on its place in a vector loop.
# Without errno and traps the compiler can still vectorize square roots.
FLAGS = (
    *("-std=c11", "-O3", "-march=native", "-fopenmp-simd", "-ffp-contract=off"),
    *("-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"),
)


class UnavailableError(RuntimeError):
    """There are no kernels for these tensors or on this machine; the message says why."""


def library(real: str) -> ctypes.CDLL:
    """Return the compiled kernels for one element type. Compile them if need be.

    Args:
        real: The C type, ``"float"`` or ``"double"``.

    Raises:
        UnavailableError: There is no way to compile or load them. Later calls raise it again without trying.
    """
    outcome = _attempt(real)
    if isinstance(outcome, str):
        raise UnavailableError(outcome)
    return outcome


def is_loadable(real: str | None) -> bool:
    """Return whether ``library`` can return kernels for the C type ``real``; ``None`` is no C type."""
    return real is not None and not isinstance(_attempt(real), str)


@functools.cache
def _attempt(real: str) -> ctypes.CDLL | str:
    try:
        return _load(real)
    except (UnavailableError, OSError) as error:
        return str(error)


def _load(real: str) -> ctypes.CDLL:
    if os.environ.get("HYPERGRAD_KERNELS") == "0":
        raise UnavailableError("HYPERGRAD_KERNELS=0 switches them off")
    system, machine = sys.platform, platform.machine()
    if (system, machine) != ("linux", "x86_64"):
        raise UnavailableError(f"they are for Linux on x86_64, and this is {system} on {machine}")
    command = compiler()
    folder = cache_folder()
    path = folder / f"cpu-{real}-{_digest(command)}.so"
    if not path.exists():
        _compile(command, real, path)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # The file is damaged, or comes from a system with another C library.
        _compile(command, real, path)
        loaded = ctypes.CDLL(str(path))
    _share_threads(loaded)
    return loaded


def compiler() -> list[str]:
    """Return the command of the C compiler: ``CC``, else ``cc``, ``gcc`` or ``clang``.

    Raises:
        UnavailableError: There is no C compiler.
    """
    for command in filter(
        None, (shlex.split(name) for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"))
    ):
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    raise UnavailableError("there is no C compiler: install gcc or clang, or name one in CC")


def cache_folder() -> Path:
    """Return the folder of compiled kernels. Make it if need be.

    Raises:
        UnavailableError: The folder cannot be made, or others could put a library there.
    """
    if named := os.environ.get("HYPERGRAD_CACHE"):
        folder = Path(named)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hypergrad"
    advice = "name another folder in HYPERGRAD_CACHE"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        raise UnavailableError(f"cannot make the cache folder {folder} ({error}): {advice}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnavailableError(f"others can write to the cache folder {folder}: {advice}")
    return folder


def _digest(command: list[str]) -> str:
    binary = Path(command[0]).resolve()
    status = binary.stat()
    parts = [
        SOURCE.read_text(),
        *FLAGS,
        *command,
        f"{binary} {status.st_size} {status.st_mtime_ns}",
        _processor(),
        torch.__version__,
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """Return the processor's description: unlike machines, which need other code, may share a home folder."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    wanted = ("vendor_id", "cpu family", "model", "stepping", "flags")
    return "\n".join(line for line in lines if line.startswith(wanted))


def _compile(command: list[str], real: str, path: Path) -> None:
    """Compile to ``path``, whole or not at all, even if other processes do the same."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise UnavailableError(
            f"cannot write to the cache folder {path.parent} ({error.strerror}): "
            "name another one in HYPERGRAD_CACHE"
        ) from error
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, *FLAGS, f"-DREAL={real}", str(SOURCE), "-o", temporary, "-lm"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise UnavailableError(f"{shlex.join(command)} does not compile {SOURCE.name}: {said[0]}")
        os.chmod(temporary, 0o700)
        os.replace(temporary, path)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{shlex.join(command)} took longer than {error.timeout:.0f} s") from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _share_threads(loaded: ctypes.CDLL) -> None:
    """Let the kernels run on torch's own OpenMP threads, or on one thread if torch has none."""
    try:
        # Looking up a symbol in torch's library also searches the OpenMP runtime that it is linked to.
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        addresses = [ctypes.cast(torch_cpu[name], ctypes.c_void_p) for name in names]
    except (OSError, AttributeError):
        return
    loaded.use_openmp(*addresses)
