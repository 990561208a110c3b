"""Keeps passwords out of the list of processes, which everyone on a machine can read."""

from __future__ import annotations

import os
import sys

from study.tracking.mlflow_backend import address

_OPTION = "--tracking-uri"


def hide_password() -> None:
    """Restart the program without the password in ``--tracking-uri``, if there is one.

    The whole address goes into ``MLFLOW_TRACKING_URI``, from which ``address.tracking_uri`` completes the
    option. So the option is safe in printed and stored text, such as the command to resume a study.
    """
    given = sys.argv[1:]
    hidden = list(given)
    for place, word in enumerate(given):
        name, mark, uri = word.partition("=")
        if place and given[place - 1] == _OPTION:
            name, mark, uri = "", "", word
        elif name != _OPTION:
            continue
        if address.has_password(uri):
            os.environ[address.URI_VARIABLE] = uri
            hidden[place] = name + mark + address.without_password(uri)
    if hidden == given:
        return
    sys.argv[1:] = hidden
    before = sys.orig_argv[: -len(given)]
    if sys.orig_argv == [*before, *given]:  # not if another program called this one
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [*before, *hidden])
