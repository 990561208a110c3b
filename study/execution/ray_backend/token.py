"""Finds Ray's token where a cluster asks for one, and says what is wrong with it.

``ray start --head`` asks for a token wherever it finds one. Ray looks for a token by itself when it finds a
cluster by itself, but not when it is given an address.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.config.messages import first_line
from study.execution.executor import ExecutorError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"
LOGGED_SECONDS = 0.3
"""Within this time after a refusal, a thread of Ray's writes a warning to the terminal."""
_PLACES = f"put the cluster's token into {TOKEN}, a file that {TOKEN_PATH} names, or {DEFAULT_PATH}"


def find() -> str | None:
    """Return where there is a token: a variable's name or a file. None if there is none.

    A token that a variable names stands before the one in the home folder, as for Ray.
    """
    if os.environ.get(TOKEN, "").strip():
        return TOKEN
    path = Path(os.environ.get(TOKEN_PATH) or DEFAULT_PATH).expanduser()
    try:
        return str(path) if path.read_text(encoding="utf-8").strip() else None
    except (OSError, ValueError):
        return None


def check(address: str) -> None:
    """Ask the cluster at an address whether it takes us, with our token if it wants one.

    If it wants a token, there is one, and ``RAY_AUTH_MODE`` is not set, Ray sends the token from now on.

    Args:
        address: the cluster's host and port, ``10.0.0.1:6379``.

    Raises:
        ExecutorError: the cluster refuses, or is no Ray cluster. Ray's own connection would try again for
            20 s to 2 min, and then not say why.
    """
    mode, found = os.environ.get(MODE, "").lower(), find()
    if mode == "token" and found is None:
        raise ExecutorError(f"{MODE}=token, but there is no token; {_PLACES}")
    wants_token = not _accepts(address, "disabled")
    if mode == "token" and not wants_token:
        raise ExecutorError(
            f"{MODE}=token, but the Ray cluster at {address} uses no token, and its workers could not answer "
            f"this process; unset {MODE}, or start the cluster with it"
        )
    if not wants_token:
        return
    if found is None:
        raise ExecutorError(f"the Ray cluster at {address} wants a token, and there is none here; {_PLACES}")
    if mode not in ("", "token"):
        raise ExecutorError(
            f"the Ray cluster at {address} wants a token, but {MODE}={mode} keeps Ray from sending the one "
            f"in {found}; unset {MODE}"
        )
    if not _accepts(address, "token"):
        raise ExecutorError(f"the Ray cluster at {address} refuses the token in {found}; {_PLACES}")
    set_mode("token")


def _accepts(address: str, mode: str) -> bool:
    """Return whether the cluster answers a connection in an authentication mode.

    Raises:
        ExecutorError: no Ray cluster answers.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    before = os.environ.get(MODE)
    set_mode(mode)
    try:
        with _stderr_silenced():
            try:
                GcsClient(address=address)
            except ray.exceptions.AuthenticationError:
                time.sleep(LOGGED_SECONDS)
                raise
    except ray.exceptions.AuthenticationError:
        return False
    except Exception as error:
        raise ExecutorError(f"no Ray cluster answers at {address} ({first_line(error)})") from error
    finally:
        set_mode(before)
    return True


def set_mode(mode: str | None) -> None:
    """Set ``RAY_AUTH_MODE`` for this process, which has read it already, and for its children.

    Args:
        mode: ``token`` or ``disabled``; None unsets it.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    os.environ.pop(MODE, None)
    if mode is not None:
        os.environ[MODE] = mode
    Config.initialize("")
    # Ray asks for a token that it once read, and sends it, even where the mode is "disabled" since.
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discard what Ray's C++ code writes to the terminal. For the main thread, before others start."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
