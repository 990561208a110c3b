"""Errors that a user's model, loss, data or optimizer raises, and their form in a trial's record."""

from __future__ import annotations

import inspect
import sys
import traceback

from study.config.messages import describe_error
from study.config.trial import Trial
from study.storage.failures import place_of

RAISED = (Exception, SystemExit)
"""What a user's code may raise, ``sys.exit()`` included, without ending the process: it fails the trial."""


class LastBatchError(ValueError):
    """Training fails on the one row that is left for the last batch of an epoch."""

    def __init__(self, rows: int, batch_size: int, error: BaseException) -> None:
        super().__init__(
            f"the last batch of an epoch has one row ({rows} rows in batches of {batch_size}) and training "
            "on it fails, as batch normalisation does; write drop_last: true into the study file to leave "
            f"it out ({describe_error(error)})"
        )


def stored_traceback(error: BaseException, trial: Trial) -> str:
    """Return the traceback of ``error`` for the journal of ``trial``.

    A layer of the wrong width raises inside torch and leads to no line of the user's. Then the place where
    the workload is defined stands before the traceback, which still ends in the exception.

    Args:
        error: what training the trial raised.
        trial: whose workload raised it.
    """
    text = "".join(traceback.format_exception(error))
    if place_of(text, [trial.workload.partition(":")[0].partition(".")[0]]) is None:
        return _definition(trial.workload) + text
    return text


def _definition(workload: str) -> str:
    """The line that says where a workload's function is; empty for a built-in one."""
    module, separator, name = workload.partition(":")
    function = getattr(sys.modules.get(module), name, None) if separator else None
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None:
        return ""
    place = f'File "{code.co_filename}", line {code.co_firstlineno}, in {name}'
    return f"The workload {workload} is defined here:\n  {place}\n\n"
