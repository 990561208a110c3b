"""Finds Ray's token if a cluster requires one, and says what is wrong with it.

``ray start --head`` requires a token whenever it finds one. Ray looks for a token by itself when it finds a
cluster by itself, but not when it gets an address.
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
"""Within this time after a refusal, one of Ray's threads writes a warning to the terminal."""
_PLACES = f"put the cluster's token into {TOKEN}, a file that {TOKEN_PATH} names, or {DEFAULT_PATH}"


def find() -> str | None:
    """Return the place of the token: a variable's name or a file. None if there is none.

    As for Ray, a token that a variable names is preferred to the one in the home folder.
    """
    if os.environ.get(TOKEN, "").strip():
        return TOKEN
    path = Path(os.environ.get(TOKEN_PATH) or DEFAULT_PATH).expanduser()
    try:
        return str(path) if path.read_text(encoding="utf-8").strip() else None
    except (OSError, ValueError):
        return None


def check(address: str) -> None:
    """Check that the cluster at an address accepts us, with our token if it requires one.

    If it requires a token, there is one, and ``RAY_AUTH_MODE`` is not set, Ray sends the token from now on.

    Args:
        address: Host and port of the cluster, such as ``10.0.0.1:6379``.

    Raises:
        ExecutorError: The cluster refuses, or is no Ray cluster. Ray's own connection would try again for
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
        ExecutorError: No Ray cluster answers.
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
    # Ray would still send a token that it has read before, even if the mode is now "disabled".
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discard the output of Ray's C++ code to the terminal. For the main thread, before others start."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
