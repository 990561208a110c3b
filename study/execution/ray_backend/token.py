"""Finds Ray's token, which a cluster may ask for, and says what is wrong with it.

``ray start --head`` asks for a token wherever it finds one. Ray looks for a token when it joins a cluster
that it found by itself, but not when it is given an address; :func:`use_if_found` lets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.execution.executor import ExecutorError

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"


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


def use_if_found() -> None:
    """Let Ray send a token if there is one, unless ``RAY_AUTH_MODE`` says otherwise.

    To be called before Ray is imported. A cluster that asks for none ignores it.
    """
    if MODE not in os.environ and find() is not None:
        os.environ[MODE] = "token"


def check(address: str) -> None:
    """Ask the cluster whether it takes our token.

    Args:
        address: the cluster's host and port, ``10.0.0.1:6379``.

    Raises:
        ExecutorError: it refuses, or is no Ray cluster. Ray's own connection would try again for 20 s and
            then not say why.
    """
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    found = find()
    if os.environ.get(MODE, "").lower() == "token" and found is None:
        raise ExecutorError(f"{MODE}=token, but there is no token; {_where_to_put_it()}")
    try:
        with _stderr_silenced():
            GcsClient(address=address)
    except ray.exceptions.AuthenticationError as error:
        raise ExecutorError(f"the Ray cluster at {address} {_refusal(found)}") from error
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ExecutorError(f"no Ray cluster answers at {address} ({''.join(reason[:1])})") from error


def _refusal(found: str | None) -> str:
    if found is None:
        return f"wants a token, and there is none here; {_where_to_put_it()}"
    if os.environ.get(MODE, "").lower() != "token":
        return (
            f"wants a token; there is one ({found}), but {MODE}={os.environ.get(MODE, '')} forbids to send it"
        )
    return f"refuses the token in {found}; {_where_to_put_it()}"


def _where_to_put_it() -> str:
    return f"put the cluster's token into {TOKEN}, a file that {TOKEN_PATH} names, or {DEFAULT_PATH}"


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
