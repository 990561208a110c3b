"""How the parts ended and all that they measured, in one file per card; the bundle of all files."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu.harness import write_whole

TAIL = 25
"""Lines of a part's log that are shown when it ends."""


@dataclass
class Outcome:
    """How a part ended."""

    part: str
    status: str = "not run"
    """``"ok"``, ``"failed"``, ``"ran over"`` or ``"not run"``."""
    seconds: float = 0.0
    limit: float = 0.0
    detail: str = ""


def card_name(environment: Mapping[str, Any]) -> str:
    """Return the card's name as a file name: ``nvidia-h200``, or ``cpu`` without one."""
    return re.sub(r"[^a-z0-9]+", "-", (environment.get("card") or "cpu").lower()).strip("-")


def save(outcomes: Sequence[Outcome], out: Path, environment: Mapping[str, Any]) -> None:
    """Write what the parts measured into one file, named after the card.

    What an earlier run into the same folder measured stays, for the parts that were not run this time.
    """
    path = out / f"{card_name(environment)}.json"
    parts = (_read(path) or {}).get("parts", {})
    for outcome in outcomes:
        if outcome.status != "not run" or outcome.part not in parts:
            parts[outcome.part] = asdict(outcome) | {"results": _read(out / f"{outcome.part}.json")}
    content = {"environment": environment, "parts": parts}
    write_whole(path, json.dumps(content, separators=(",", ":")) + "\n")


def write_bundle(out: Path, bundle: Path) -> None:
    """Copy every JSON and log of ``out`` into one compressed archive, whole or not at all."""
    draft = bundle.with_name(f"{bundle.name}.new")
    with tarfile.open(draft, "w:gz") as archive:
        for path in sorted(out.iterdir()):
            if path.suffix in (".json", ".log") and path.is_file():
                archive.add(path, path.name)
    draft.replace(bundle)


def show_end(log: Path) -> None:
    """Print the last lines of a part's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(lines) > TAIL:
        print(f"… {len(lines) - TAIL} more lines in {log}")
    print("\n".join(lines[-TAIL:]), flush=True)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a line for each part: how it ended, its seconds and its limit."""
    lines = [f"{'part':<8} {'status':<9} {'seconds':>7} {'limit':>6}"]
    for one in outcomes:
        line = f"{one.part:<8} {one.status:<9} {one.seconds:7.1f} {one.limit:6.0f}  {one.detail}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _read(path: Path) -> Any:
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None
