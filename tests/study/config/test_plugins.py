"""Code that a study names: found where it should be, refused where that is asked for."""

import inspect
import sys

import pytest

from study.cli import commands
from study.config import plugins
from study.config.loader import Trial
from study.config.plugins import PluginImportError, find
from study.training.optimizers import OptimizerError, check
from study.workloads import registry
from study.workloads.registry import WorkloadError

NAMES_CODE = ["mine:task", "mine.Optimizer"]
MARKER = "open('imported', 'w').close()\n"


def dotted(path: str) -> Trial:
    return Trial("digits-logreg", path, 0.1, None, 0, epochs=1)


def use(name: str) -> None:
    registry.resolve(name, {}) if ":" in name else check(dotted(name))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A current folder with a module that leaves a file behind when it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(registry, "_resolved", {})
    (tmp_path / "mine.py").write_text(
        MARKER
        + "import torch\n"
        + "class Optimizer(torch.optim.SGD):\n    pass\n"
        + "def task():\n"
        + "    from study.workloads.digits import logreg\n"
        + "    return logreg()\n"
    )
    return tmp_path


@pytest.mark.parametrize("name", NAMES_CODE)
def test_the_current_folder_serves(mine, name):
    before = sys.path.copy()
    use(name)
    assert (mine / "imported").exists()
    assert sys.path == before


@pytest.mark.parametrize("switch", ["1", "true", "yes"])
@pytest.mark.parametrize("name", NAMES_CODE)
def test_refused_code_is_not_imported(mine, name, switch, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, switch)
    with pytest.raises((WorkloadError, OptimizerError), match=r"\A[^\n]*--no-imports[^\n]*\Z"):
        use(name)
    assert not (mine / "imported").exists()


@pytest.mark.parametrize("switch", ["", "0", "false", "No"])
def test_the_switch_can_be_off(mine, switch, monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, switch)
    use("mine.Optimizer")


def test_what_is_ours_and_torchs_is_left(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "1")
    monkeypatch.setattr(registry, "_resolved", {})
    registry.resolve("digits-logreg", {})
    use("torch.optim.AdamW")
    use("sgd")
    for path in ("torch.optim.lr_scheduler.StepLR", "torch.nn.Linear", "study.workloads.digits:logreg"):
        with pytest.raises((WorkloadError, OptimizerError), match="--no-imports"):
            use(path)


@pytest.mark.parametrize("by", ["option", "environment"])
def test_run_refuses_in_one_line_and_leaves_nothing(mine, by, write_study, monkeypatch, capsys):
    _, path = write_study(optimizers=["sgd", "mine.Optimizer"])
    monkeypatch.setenv(plugins.VARIABLE, "0" if by == "option" else "1")
    options = ["--no-imports"] if by == "option" else []
    monkeypatch.setattr(sys, "argv", ["hypergrad-study", "run", str(path), "--runs", "runs", *options])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: optimizer mine.Optimizer: --no-imports or ")
    assert not (mine / "imported").exists()
    assert not (mine / "runs" / "small" / "study.yaml").exists()


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("nosuch.thing", "X", "no module 'nosuch' installed, on PYTHONPATH, or in"),
        ("prodigyopt", "Prodigy", "prodigyopt is not installed; pip install 'hypergrad-study[rivals]'"),
        ("textwrap", "TextWraper", "textwrap has no class 'TextWraper' (did you mean 'TextWrapper'?)"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(module, name, words, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt", None)  # as if it were not installed
    with pytest.raises(PluginImportError, match=r"\A[^\n]+\Z") as caught:
        find(module, name, inspect.isclass, "class")
    assert words in str(caught.value)
