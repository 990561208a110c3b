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

    If a package of the extra ``study`` is not installed, print what to install and exit with 2. If the user
    interrupts the program while it imports modules, exit with the same code as the command line.
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
    """Print that a run begins, before imports that take a second on a busy machine."""
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
    # torch, Ray and MLflow create a million objects that stay. The garbage collector would visit them again
    # and again.
    gc.set_threshold(50_000, 20, 100)


def _end_quietly() -> None:
    """Skip the last garbage collection, and discard the output of C extensions while they end.

    Triton's extension, for one, lists every object that was not freed. All other output has been printed by
    then, as ``atexit`` calls the first registered function last.
    """
    gc.freeze()
    with suppress(OSError, ValueError, AttributeError):  # stderr may be absent or closed
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


if __name__ == "__main__":
    main()
