"""Where the command line begins: the program ``hypergrad-study``, which ``python -m study`` is too."""

import gc
import sys


def main() -> None:
    """Run the command line; interrupted while that is being imported, end as it would."""
    # torch, Ray and MLflow are a million objects that stay, which the collector would walk time and again,
    # and once more at the end.
    gc.set_threshold(50_000, 20, 100)
    try:
        from study.cli.commands import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        run()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
