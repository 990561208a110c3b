"""The pages for people are true: studies load, pictures are there and small, commands and files exist."""

import re
import runpy
import textwrap
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import commands
from study.config.loader import load_study
from study.workloads import registry

ROOT = Path(__file__).parent.parent
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "docker/README.md", "deploy/README.md")),
]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_studies_load_and_commands_exist(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        (tmp_path / "study.yaml").write_text(block)
        assert load_study(tmp_path / "study.yaml").planned_trials()
    listed = CliRunner().invoke(commands.app, ["--help"]).output
    for command in re.findall(r"hypergrad-study ([a-z]+)", text):
        assert re.search(rf"\b{command}\b", listed), command
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?\bmake ([a-z]+-?[a-z]*)\b`", text):
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files_and_pictures_are_small(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        path = page.parent / target
        assert path.exists(), target
        assert path.suffix not in (".png", ".svg") or path.stat().st_size < 200_000, target


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:study|hypergrad|tests|docs)/[\w/.-]*)`", text))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_python_of_contributing_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S)
    exec(compile(textwrap.dedent(block), "CONTRIBUTING.md", "exec"), {})
    assert "pending 0" in capsys.readouterr().out


def test_the_python_of_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    train, spirals = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    exec(compile(train, "tutorial.md", "exec"), {})
    losses = [re.findall(r"AdamW (\d\.\d+)", line) for line in capsys.readouterr().out.splitlines()]
    assert len(losses) == 3
    # Far from a good learning rate, and nowhere worse, as the tutorial says.
    assert all(float(learned) < 1.1 * float(fixed) for fixed, learned in losses)
    assert float(losses[0][1]) < float(losses[0][0]) / 2
    (tmp_path / "spirals.py").write_text(spirals)
    monkeypatch.syspath_prepend(tmp_path)
    workload = registry.resolve("spirals:spirals", {})
    data = workload.load(tmp_path)
    assert workload.build()(data.train_inputs).shape == (800, 2)


def test_the_python_of_the_page_about_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    exec(compile(block, "python.md", "exec"), names := {})
    assert len(names["figure"].axes) >= 3
    assert "sgd-sgd" in capsys.readouterr().out


def test_the_picture_has_the_rooms_in_the_rows_of_the_import_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = {room: row for row, line in enumerate(reversed(layers)) for room in re.split(r" [|:] ", line)}
    del rows["__main__"]
    drawn = runpy.run_path(str(ROOT / "docs" / "architecture.py"))["ROOMS"]
    assert {name: row for name, _, _, row, _ in drawn} == rows
