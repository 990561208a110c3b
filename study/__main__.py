"""Runs the command line: the program ``hypergrad-study``, also called as ``python -m study``."""

import atexit
import gc
import os
import sys
from contextlib import suppress

# fmt: off
_EXTRA = frozenset({
    "PIL", "filelock", "fsspec", "jinja2", "matplotlib", "mlflow", "numpy", "optuna", "pandas",
    "platformdirs", "psutil", "pyarrow", "pydantic", "ray", "rich", "ruamel", "scipy", "sklearn", "torch",
    "torchvision", "typer",
})
"""The modules of the extra ``study``, which an installation of the optimizers alone lacks."""
# fmt: on


def main() -> None:
    """Run the command line.

    If a package of the extra ``study`` is not installed, say what to install and exit with 2. If the program
    is interrupted while it imports modules, end as the command line ends itself.
    """
    prepare()
    _say_first(sys.argv[1:])
    try:
        from study.cli.commands import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(_say_what_to_install(error))


def _say_first(words: list[str]) -> None:
    """Say that a run begins, before modules are imported that take a second on a busy machine."""
    if words[:1] == ["run"] and not {"-h", "--help", "--dry-run"} & set(words):
        print("reading the study", flush=True)


def _say_what_to_install(error: ModuleNotFoundError) -> int:
    name = (error.name or "").partition(".")[0]
    line = f"error: {name} is not installed; studies need more packages than the optimizers"
    print(f"{line}: pip install 'hypergrad-study[study]'", file=sys.stderr)
    return 2


def prepare() -> None:
    """Set up this process for the command line, before its modules are imported."""
    atexit.register(_end_quietly)
    # torch, Ray and MLflow make a million objects that stay. The garbage collector would walk over them time
    # and again.
    gc.set_threshold(50_000, 20, 100)


def _end_quietly() -> None:
    """Skip the last collection, and discard what C extensions print while they are torn down.

    Triton's extension, for one, lists every object that was not freed. All else has been printed by then, as
    ``atexit`` calls last what was registered first.
    """
    gc.freeze()
    with suppress(OSError, ValueError, AttributeError):  # there may be no stderr, or a closed one
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    main()
