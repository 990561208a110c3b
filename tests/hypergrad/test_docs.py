"""The pages of docs/hypergrad: complete, linked, and their Python runs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

import hypergrad
from hypergrad import _validation

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted((ROOT / "docs" / "hypergrad").glob("*.md"))
TEXT = {page.name: page.read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("name", TEXT)
def test_python_runs_and_links_lead_somewhere(name):
    for block in re.findall(r"^```python\n(.*?)^```", TEXT[name], re.M | re.S):
        torch.manual_seed(0)
        exec(compile(block, name, "exec"), {})
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT[name])
    assert [target for target in targets if not (PAGES[0].parent / target).exists()] == []


def test_there_is_a_page_per_op_and_rule():
    ops = {f"op-{op}.md" for op in _validation.OPS}
    lops = {f"lop-{lop}.md" for lop in _validation.LOPS if lop}
    assert ops | lops <= set(TEXT)
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", TEXT["README.md"]))
    assert linked == set(TEXT) - {"README.md"}


def test_every_argument_is_on_some_page():
    arguments = set(inspect.signature(hypergrad.SGD).parameters)
    arguments |= set(inspect.signature(hypergrad.Adam).parameters)
    text = "\n".join(TEXT.values())
    assert [name for name in arguments if not re.search(rf"\b{name}\b", text)] == []


def test_tests_that_the_pages_name_exist():
    sources = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", "\n".join(TEXT.values())))
    assert named
    assert [name for name in named if f"def {name}(" not in sources] == []
