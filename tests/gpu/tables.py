"""Markdown tables of a card's results: ``PYTHONPATH=tests python -m gpu.tables CARD.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def tables(card: Mapping[str, Any]) -> str:
    """Return one table for each kind of measurement, and one line for each curve's end.

    Args:
        card: What a run wrote into ``OUT/CARD.json``.
    """
    known = ", ".join(f"{name} {value}" for name, value in card["environment"].items() if value)
    texts = [known]
    for name, part in card["parts"].items():
        texts.append(f"## {name}: {part['status']}, {part['seconds']:.0f} s")
        results = part["results"] or {"notes": {}, "measurements": []}
        texts += [f"{note}: {value}" for note, value in results["notes"].items()]
        kinds: dict[str, list[dict[str, Any]]] = {}
        for measurement in results["measurements"]:
            kinds.setdefault(measurement["what"], []).append(_scalars(measurement))
        texts += [_table(rows) for rows in kinds.values()]
    return "\n\n".join(texts)


def _scalars(measurement: Mapping[str, Any]) -> dict[str, Any]:
    """Return a measurement without its kind; of a curve, the number of epochs and the last one."""
    row: dict[str, Any] = {}
    for name, value in measurement.items():
        if isinstance(value, list) and measurement["what"] == "curve":
            row |= {"epochs": len(value), name: value[-1] if value else None}
        elif isinstance(value, list | dict):
            row[name] = ", ".join(map(str, value if isinstance(value, list) else value.values()))
        elif name != "what":
            row[name] = value
    return row


def _table(rows: Iterable[Mapping[str, Any]]) -> str:
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return " ".join(text.replace("|", "\\|").split())[:200]


if __name__ == "__main__":
    print(tables(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
