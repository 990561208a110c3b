"""The README tells the truth: its Python runs, its study loads, its links and commands exist."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from study.cli import commands
from study.config.loader import load_study, preset_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_python_examples_run():
    found = blocks("python")
    assert found
    for block in found:
        torch.manual_seed(0)
        exec(compile(block, "README.md", "exec"), {})


def test_the_study_file_loads(tmp_path):
    found = blocks("yaml")
    assert found
    for number, block in enumerate(found):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block)
        assert load_study(path).trials()


def test_links_lead_to_files():
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_and_targets_exist():
    named = set(re.findall(r"hypergrad-study ([a-z]+)", README))
    listed = CliRunner().invoke(commands.app, ["--help"]).output
    assert named
    assert [name for name in named if not re.search(rf"\b{name}\b", listed)] == []
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_it_stays_short():
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_described(name):
    assert name in (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
