"""The pages of docs/ tell the truth: studies load, pictures are there and small, commands exist."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import commands
from study.config.loader import load_study

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [DOCS / "mlflow-ui.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_studies_load_and_commands_exist(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S):
        (tmp_path / "study.yaml").write_text(block)
        assert load_study(tmp_path / "study.yaml").trials()
    listed = CliRunner().invoke(commands.app, ["--help"]).output
    for command in re.findall(r"hypergrad-study ([a-z]+)", text):
        assert re.search(rf"\b{command}\b", listed), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_pictures_are_small(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        path = page.parent / target
        assert path.is_file(), target
        assert path.suffix != ".png" or path.stat().st_size < 200_000, target
