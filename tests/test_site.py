"""The documentation builds as a site: strictly, with the pages from outside docs/ and the reference."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs mkdocs-material and mkdocstrings, which the extra dev has")

ROOT = Path(__file__).parent.parent


def test_it_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="tutorial/"' in start
    assert "../study/workloads/base.py" not in (tmp_path / "studies" / "index.html").read_text(
        encoding="utf-8"
    )
    reference = (tmp_path / "reference" / "hypergrad" / "index.html").read_text(encoding="utf-8")
    for name in ("hypergrad.SGD", "hypergrad.Adam", "hypergrad.functional.update"):
        assert f'id="{name}"' in reference
    assert "code-block::" not in reference


@pytest.mark.parametrize(
    ("source", "page", "before", "after"),
    [
        ("README.md", "index.md", "[a](docs/hypergrad/README.md)", "[a](hypergrad/README.md)"),
        ("deploy/README.md", "deploy.md", "[a](../docker/README.md#x)", "[a](docker.md#x)"),
        ("docs/hypergrad/a.md", "hypergrad/a.md", "[b](b.md)", "[b](b.md)"),
        ("docs/hypergrad/a.md", "hypergrad/a.md", "[c](../../README.md)", "[c](../index.md)"),
        ("docs/a.md", "a.md", "![p](p.png), [w](https://x.org)", "![p](p.png), [w](https://x.org)"),
        ("docs/a.md", "a.md", "[base.py](../study/base.py)", "base.py (`study/base.py`)"),
    ],
)
def test_links_lead_to_pages_of_the_site(source, page, before, after):
    rewrite = runpy.run_path(str(ROOT / "docs" / "mkdocs_hooks.py"))["rewrite"]
    assert rewrite(before, source, page) == after
