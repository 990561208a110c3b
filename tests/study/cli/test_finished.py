"""A finished study that is run again: nothing is trained, and the report is drawn only if it would change."""

import subprocess
import sys
import textwrap

import pytest

from study.cli import commands
from study.storage import provenance


@pytest.fixture
def run(monkeypatch, write_study, tmp_path):
    """A function that runs a small study, with settings; and one that returns the file of its report."""
    _, file = write_study(epochs=1, optimizers=["sgd"])
    runs = tmp_path / "runs"

    def call(*words, command="run"):
        words = ["run", file, "--local", *words] if command == "run" else [command, "small"]
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", *map(str, words), "--runs", str(runs)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert not ended.value.code
        return runs / "small" / "report" / "index.html"

    return call


def test_a_report_that_shows_everything_is_not_drawn_again(run, monkeypatch):
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    page = run()
    page.write_text("as it was")
    assert run().read_text() == "as it was"
    assert run(command="report").read_text() != "as it was"


@pytest.mark.parametrize("change", ["a trial", "a threshold", "the code", "code that is being changed"])
def test_a_report_is_drawn_again_after_a_change(run, monkeypatch, change):
    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    page = run()
    page.write_text("as it was")
    settings = {"a trial": ["--set", "seeds=3"], "a threshold": ["--set", "threshold=1.5"]}
    if change == "the code":
        monkeypatch.setattr(provenance, "commit", lambda: "abd")
    if change == "code that is being changed":
        monkeypatch.setattr(provenance, "commit", lambda: "abc+changes")
    assert run(*settings.get(change, [])).read_text() != "as it was"


def test_a_report_that_was_not_written_to_its_end_is_drawn_again(run, monkeypatch):
    from study.report import builder

    monkeypatch.setattr(provenance, "commit", lambda: "abc")
    page = run()
    write = builder.write_report

    def breaking(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builder, "write_report", breaking)
        patch.setattr(provenance, "commit", lambda: "abd")
        with pytest.raises(AssertionError):
            run()
    page.write_text("half of it")
    assert run().read_text() != "half of it"


def test_nothing_that_trains_is_imported(run, write_study, tmp_path):
    run()
    code = """
        import sys
        from study.cli import commands
        try:
            commands.main()
        except SystemExit as ended:
            print("code", ended.code)
        print([name for name in ("torch", "ray", "optuna") if name in sys.modules])
    """
    words = ["run", tmp_path / "small.yaml", "--runs", tmp_path / "runs"]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *words],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "small: all trials have ended; loading MLflow"
    assert lines[-2:] == ["code 0", "[]"]
