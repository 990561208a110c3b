"""The live view on terminals of several sizes, read as a person would: by its lines."""

import dataclasses
import io
import re

import pytest
from rich.console import Console

from study.cli.columns import Column, fitting
from study.cli.progress import panel, watching
from study.storage.progress import Progress, ProgressRow

HEADINGS = [
    "workload",
    "optimizer",
    "done",
    "running",
    "diverged",
    "val loss",
    "last α",
    "reached",
    "iterations",
]


def row(number, done=4, running=2, workload="chars-transformer", optimizer="adamw-sgdn cosine"):
    name = f"{optimizer} {number}"
    return ProgressRow(workload, name, 18, done, running, 1, 0, 0.012345, 0.000123, 3, 1234.5)


def progress(rows, **changes):
    base = Progress(180, 40, 2, 0, 0, 6, 0.3, 75.0, None, workloads=2, rows=tuple(rows))
    return dataclasses.replace(base, **changes)


def lines(shown, width=80, height=24):
    console = Console(width=width, height=height, force_terminal=True, file=io.StringIO(), color_system=None)
    console.print(panel(console, shown))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [50, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_every_number_is_whole(width):
    found = lines(progress([row(number) for number in range(3)]), width)
    assert max(map(len, found)) <= width
    table = [line for line in found if "4/18" in line]
    assert len(table) == 3
    head = next(line for line in found if "optimizer" in line)
    numbers = {
        "done": "4/18",
        "val loss": "0.0123",
        "last α": "0.000123",
        "iterations": "1234.5",
        "reached": "3/4",
    }
    for heading, number in numbers.items():
        if heading in head:
            assert all(re.search(rf"(?<![\w.]){re.escape(number)}(?![\w.])", line) for line in table)
    if width >= 80:
        assert {"done", "diverged", "val loss", "last α", "iterations"} <= set(
            re.split(r"\s{2,}", head.strip())
        )
    if width == 200:
        assert re.split(r"\s{2,}", head.strip()) == HEADINGS
        assert "adamw-sgdn cosine 0" in table[0]


def test_many_rows_show_those_under_way_and_count_the_others():
    rows = [row(n, done=18, running=0, optimizer="sgd") for n in range(60)]
    rows += [row(n, done=3, optimizer="sgd") for n in range(60, 65)]
    rows += [row(n, done=0, running=0, optimizer="sgd") for n in range(65, 100)]
    found = lines(progress(rows), height=24)
    assert len(found) <= 24
    for number in range(60, 65):
        assert any(f"sgd {number} " in line for line in found)
    shown = sum("/18 " in line for line in found[2:])
    assert found[-1] == f"… {100 - shown} more: {60 - (shown - 5)} ended, 35 not begun"


def test_no_loss_is_pooled_over_workloads():
    assert not any("best" in line for line in lines(progress([row(0)])))


def test_what_is_waited_for_is_said():
    assert "the workers start" in lines(progress([], phase="the workers start"))[1]


def test_without_a_terminal_there_are_plain_lines():
    console = Console(width=160, file=io.StringIO())
    with watching(console) as on_progress:
        on_progress(progress([row(0)]))
    assert console.file.getvalue() == "42/180 trials done, 6 running, 2 diverged, about 75 s left\n"


def test_columns_go_by_their_number_and_never_one_that_stays():
    columns = [
        Column("name", ["a" * 30], left=True, least=4),
        Column("kept", ["12345"]),
        Column("first", ["12345"], drop=2),
        Column("second", ["12345"], drop=1),
    ]

    def headings(width, terminal=True):
        console = Console(width=width, force_terminal=terminal, file=io.StringIO())
        return [column.header for column in fitting(console, columns).columns]

    assert headings(80) == ["name", "kept", "first", "second"]
    assert headings(28) == ["name", "kept", "first", "second"], "a name is shortened before a number goes"
    assert headings(20) == ["name", "kept", "second"]
    assert headings(12) == ["name", "kept"]
    assert headings(3) == ["name", "kept"]
    assert headings(3, terminal=False) == ["name", "kept", "first", "second"]
