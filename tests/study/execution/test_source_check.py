"""A module's source is looked at and never run: what is missing is found, what cannot be told is let pass."""

import sys

import pytest

from study.execution.source_check import missing

TRAP = "\nopen('made', 'w')\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        "def work(): pass",
        "async def work(): pass",
        "class work: pass",
        "work = 3",
        "work: int = 3",
        "a, (work, b) = 1, (2, 3)",
        "import work",
        "import other as work",
        "from other import work",
        "try:\n    import x\nexcept ImportError:\n    work = None",
        "if True:\n    def work(): pass",
        "for work in (): pass",
        "with open('x') as work: pass",
        # Whatever these define.
        "from other import *",
        "globals()['wo' + 'rk'] = 3",
        "def __getattr__(name): return name",
        "exec('wo' + 'rk = 1')",
    ],
)
def test_what_a_module_may_define_passes(home, source):
    (home / "mine.py").write_text(source + TRAP)
    assert missing("mine", "work") is None
    assert not (home / "made").exists()
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    "source", ["", "def wort(): pass", "def other():\n    work = 3", "x.work = 3", "#work"]
)
def test_what_a_module_does_not_define_is_missing(home, source):
    (home / "mine.py").write_text(source + TRAP)
    hint = " (did you mean 'wort'?)" if "wort" in source else ""
    assert missing("mine", "work") == f"mine has no 'work'{hint}"
    assert not (home / "made").exists()


def test_packages_are_looked_into_without_being_run(home):
    (home / "package" / "inner").mkdir(parents=True)
    for path in ("package/__init__.py", "package/inner/__init__.py"):
        (home / path).write_text(TRAP)
    (home / "package" / "inner" / "module.py").write_text("def work(): pass" + TRAP)
    assert missing("package.inner.module", "work") is None
    assert missing("package.inner.module", "rest") == "package.inner.module has no 'rest'"
    assert missing("package.outer", "work").startswith("no module 'package.outer' installed, on PYTHONPATH, ")
    assert missing("package.inner.module.deeper", "work").startswith(
        "no module 'package.inner.module.deeper'"
    )
    assert not (home / "made").exists()
    assert not any(name.partition(".")[0] == "package" for name in sys.modules)


def test_source_that_is_not_python_is_said_with_its_line(home):
    (home / "mine.py").write_text("x = 1\ndef work(:\n")
    assert missing("mine", "work").startswith("importing mine: SyntaxError: ")
    assert f"({home / 'mine.py'}, line 2)" in missing("mine", "work")


@pytest.mark.parametrize(
    ("module", "name"), [("math", "nothing"), ("torch.optim", "AdamW"), ("json", "loads")]
)
def test_installed_modules(module, name):
    """Those without a source in Python cannot be looked into."""
    assert missing(module, name) is None


def test_other_bytes_are_let_pass(home):
    (home / "mine.py").write_bytes(b"\xff\xfe\x00" * 10)
    assert missing("mine", "work") is None
