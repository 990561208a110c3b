"""Output, common options and errors, which all commands share."""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from study.api.stored import fetch, find_run
from study.cli import completion
from study.config.loader import Study
from study.storage.study_folder import RUNS_VARIABLE, StudyFolder, runs_folder

# Programs and logs get unfolded lines.
out = Console(width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

BAD_INPUT = 2

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A study's name; or its file, to score its results again.",
        autocompletion=completion.names,
    ),
]
Runs = Annotated[
    Path | None,
    typer.Option(
        "--runs", help="Folder of runs.", envvar=RUNS_VARIABLE, show_default="./runs", file_okay=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of the data sets.", envvar="HYPERGRAD_STUDY_DATA", file_okay=False),
]
Uri = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow's tracking URI.",
        envvar="MLFLOW_TRACKING_URI",
        show_default="SQLite in the folder of runs",
    ),
]


def refuse(*problems: str) -> NoReturn:
    """Print the problems, one line each, and exit with ``BAD_INPUT``."""
    for problem in problems:
        err.print(f"error: {problem}")
    sys.exit(BAD_INPUT)


def reason(error: BaseException) -> str:
    """Return the message of an error; for a file that cannot be used, its path and the reason."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def say(line: str) -> None:
    """Print a line as it is."""
    out.print(line, markup=False, highlight=False, soft_wrap=True)


def process_start() -> float:
    """Return when this process began, in Unix seconds."""
    import psutil

    return float(psutil.Process().create_time())


def waiting(line: str) -> AbstractContextManager[object]:
    """Return a context in which a terminal shows the reason for waiting; the line disappears afterwards."""
    return err.status(line) if err.is_terminal else nullcontext()


def command_line(*words: str) -> str:
    """Return a command to paste, which calls the program as it was called, on PATH or not."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = ["python", "-m", "study"]
    elif shutil.which(Path(sys.argv[0]).name) == sys.argv[0]:
        program = [Path(sys.argv[0]).name]
    return shlex.join([*program, *words])


def find_study(
    name: str, runs: Path | None, tracking_uri: str | None
) -> tuple[Study, StudyFolder, dict[str, float]]:
    """Return a study that was run, its folder, and the progress of trials that run elsewhere.

    If ``tracking_uri`` is a server's, the study is fetched from it first; see ``study.tracking.fetch``.
    """
    folder = runs_folder(runs)
    elsewhere: dict[str, float] = {}
    if (tracking_uri or "").startswith("http") and Path(name).name == name:
        from study.tracking.base import TrackingError

        try:
            elsewhere = fetch(name, folder, str(tracking_uri))
        except TrackingError as error:
            refuse(str(error))
    return *find_run(name, folder), elsewhere
