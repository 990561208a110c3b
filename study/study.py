"""Runs the command line on a cluster's head: ``ray submit CLUSTER.yaml study/study.py -- run quickstart``.

Ray copies only this file to the home folder of the head and starts it there with ``python``. So that folder
comes first on the import path, and this file hides the package that it needs. Before it imports the package
it therefore takes the folder off the path and leaves it; Ray gives both settings to the workers.

Arguments are those of ``hypergrad-study``, with two differences. ``run`` uses the cluster to which it was
submitted (``--address auto``) unless it gets ``--address`` or ``--local``. And it works in the folder of runs
(``HYPERGRAD_STUDY_RUNS``, but never in the home folder itself), or, if that is not set, in
``hypergrad-study`` beside this file; it finds a study file (``*.yaml``) in the home folder as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = "hypergrad-study"
RUNS_VARIABLE = "HYPERGRAD_STUDY_RUNS"


def leave(folder: Path) -> None:
    """Take ``folder`` off the import path, here and in child processes, and change to another folder."""
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    if inherited := os.environ.get("PYTHONPATH"):
        kept = [entry for entry in inherited.split(os.pathsep) if Path(entry).resolve() != folder]
        os.environ["PYTHONPATH"] = os.pathsep.join(kept)
    if Path.cwd() == folder:
        elsewhere = folder / PROGRAM
        if runs := os.environ.get(RUNS_VARIABLE):
            os.environ[RUNS_VARIABLE] = os.path.abspath(os.path.expanduser(runs))
            elsewhere = Path(os.environ[RUNS_VARIABLE])
        elsewhere.mkdir(parents=True, exist_ok=True)
        os.chdir(elsewhere)


def arguments(given: list[str]) -> list[str]:
    """Return the arguments for the command line. Call it before ``leave``, to give files their full paths."""
    given = [os.path.abspath(word) if _is_study_file(word) else word for word in given]
    chosen = any(word.partition("=")[0] in ("--address", "--local") for word in given)
    if given[:1] != ["run"] or chosen:
        return given
    return [*given, "--address", "auto"]


def main() -> None:
    """Run the command line of the installed package; if it is not installed, print that and exit with 2."""
    words = arguments(sys.argv[1:])
    leave(HERE)
    try:
        from study.__main__ import prepare

        prepare()
        from study.cli import commands
    except ImportError as error:
        sys.exit(_missing(error))
    # Printed commands have the installed program's name. Ray, too, derives a folder from it.
    sys.argv = [PROGRAM, *words]
    commands.main()


def _is_study_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) and os.path.isfile(word)


def _missing(error: ImportError) -> int:
    print(
        f"error: {PROGRAM} is not installed for {sys.executable} ({error}); `ray up` installs it, by the "
        "cluster file's setup commands",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
