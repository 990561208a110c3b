"""What ``ray submit CLUSTER.yaml study/study.py -- run quickstart`` runs on the head: the command line.

Ray copies this file, alone, to the home folder of the head and starts it there with ``python``, so it stands
first on the path under the name of the package that it needs. It therefore leaves that folder and takes it
off the path before anything of the package is imported; Ray hands both on to the workers.

Arguments are those of ``hypergrad-study``, and two things differ. ``run`` uses the cluster that it was
submitted to (``--address auto``) unless it is given an ``--address``. And it works in the folder of runs
(``HYPERGRAD_STUDY_RUNS``; not the home folder itself), or else in ``hypergrad-study`` beside this file; a
study file (``*.yaml``) is looked for in the home folder as well.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAM = "hypergrad-study"
RUNS_VARIABLE = "HYPERGRAD_STUDY_RUNS"


def leave(folder: Path) -> None:
    """Take ``folder`` off the import path, here and in child processes, and work elsewhere."""
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
    """Return the arguments for the command line; to be called before the folder is left."""
    given = [os.path.abspath(word) if _is_study_file(word) else word for word in given]
    if given[:1] != ["run"] or any(word.partition("=")[0] == "--address" for word in given):
        return given
    return [*given, "--address", "auto"]


def main() -> None:
    """Run the installed package's command line; without the package say so and exit with 2."""
    words = arguments(sys.argv[1:])
    leave(HERE)
    try:
        from study.cli import commands
    except ModuleNotFoundError as error:
        sys.exit(_missing(error))
    # What is printed to be pasted is the installed program; Ray, too, derives a folder for workers from this.
    sys.argv = [PROGRAM, *words]
    commands.main()


def _is_study_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml")) and os.path.isfile(word)


def _missing(error: ModuleNotFoundError) -> int:
    print(
        f"error: {PROGRAM} is not installed for {sys.executable} ({error}); `ray up` installs it, by the "
        "cluster file's setup commands",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
