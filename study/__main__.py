"""Where the command line begins: the program ``hypergrad-study``, which ``python -m study`` is too."""

import sys


def main() -> None:
    """Run the command line; interrupted while that is being imported, end as it would."""
    try:
        from study.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
