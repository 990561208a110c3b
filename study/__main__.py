"""``python -m study`` is ``hypergrad-study``."""

from study.cli import main

if __name__ == "__main__":
    main()
