"""The process of one part: ``python -m gpu.child TARGET PART OUT SECONDS``, started by the runner."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import signal
import sys
import traceback
from pathlib import Path

from gpu.harness import Budget, Context, Results


def main() -> int:
    """Run the part; return 1 if it raised or one of its measurements did."""
    parser = argparse.ArgumentParser(prog="gpu.child")
    parser.add_argument("target", help="module with the part's main(context)")
    parser.add_argument("part")
    parser.add_argument("out", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    faulthandler.enable()
    # The runner ends a part that takes too long with SIGTERM: the log then says where it stood.
    faulthandler.register(signal.SIGTERM, chain=True)
    results = Results(options.out / f"{options.part}.json", options.part)
    context = Context(results, Budget(options.seconds), options.dry, options.data, options.pictures)
    try:
        importlib.import_module(options.target).main(context)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        results.save()
    results.finish()
    return 1 if results.errors else 0


if __name__ == "__main__":
    sys.exit(main())
