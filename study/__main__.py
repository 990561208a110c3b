"""The program ``hypergrad-study``, which ``python -m study`` is too: runs the command line."""

import atexit
import gc
import os
import sys
from contextlib import suppress


def main() -> None:
    """Run the command line. If it is interrupted while modules are imported, end as it would end itself."""
    prepare()
    try:
        from study.cli.commands import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


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
