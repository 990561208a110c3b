"""Errors in a user's model, loss, data or optimizer, and their form in a trial's record."""

from __future__ import annotations

import inspect
import sys
import traceback

from study.config.messages import describe_error
from study.config.trial import Trial
from study.storage.failures import place_of

RAISED = (Exception, SystemExit)
"""Exceptions of a user's code that fail the trial without ending the process, ``sys.exit()`` included."""


class LastBatchError(ValueError):
    """Training fails on an epoch's last batch, which has one row."""

    def __init__(self, rows: int, batch_size: int, error: BaseException) -> None:
        super().__init__(
            f"the last batch of an epoch has one row ({rows} rows in batches of {batch_size}) and training "
            "on it fails, as batch normalisation does; write drop_last: true into the study file to leave "
            f"it out ({describe_error(error)})"
        )


def stored_traceback(error: BaseException, trial: Trial) -> str:
    """Return the traceback of ``error`` for the journal of ``trial``.

    A layer of the wrong width raises an error inside torch, without any line of the user's. Then the place of
    the workload's definition comes before the traceback, which still ends in the exception.

    Args:
        error: The error that training the trial raised.
        trial: The trial.
    """
    text = "".join(traceback.format_exception(error))
    if place_of(text, [trial.workload.partition(":")[0].partition(".")[0]]) is None:
        return _definition(trial.workload) + text
    return text


def _definition(workload: str) -> str:
    """Return a line with the place of a workload's function; empty for a built-in one."""
    module, separator, name = workload.partition(":")
    function = getattr(sys.modules.get(module), name, None) if separator else None
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return ""
    place = f'File "{code.co_filename}", line {code.co_firstlineno}, in {name}'
    return f"The workload {workload} is defined here:\n  {place}\n\n"
