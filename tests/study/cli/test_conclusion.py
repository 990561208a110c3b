"""``run`` ends with one sentence of result, and ``report --paper`` draws figures of a paper's width."""

import re

import pytest

from study.cli import commands


@pytest.fixture
def call(monkeypatch, write_study, tmp_path, capsys):
    """A function that runs a command on a small study and returns what it printed."""
    _, file = write_study(optimizers=["sgd", "sgd-sgd"], seeds=2)

    def call(command, *options):
        words = [
            command,
            str(file) if command == "run" else "small",
            *options,
            "--runs",
            str(tmp_path / "runs"),
        ]
        monkeypatch.setattr("sys.argv", ["hypergrad-study", *words])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert not ended.value.code
        return capsys.readouterr().out, tmp_path / "runs" / "small" / "report"

    return call


def test_a_run_ends_with_a_sentence_of_result_and_so_does_one_that_finds_all_done(call):
    printed, report = call("run", "--local")
    said = " ".join(printed.split())
    (sentence,) = re.findall(r"SGD-HD reached the threshold in [0-9.]+ × the iterations of SGD \(.*", said)
    assert "This is a direction, not a finding: 2 seeds cannot decide it." in sentence
    kept = (report / "conclusion.txt").read_text()
    assert " ".join(kept.split()) in said
    assert " ".join(kept.split()) in " ".join(call("run", "--local")[0].split())


def test_figures_for_a_paper_are_drawn_when_asked_for(call):
    call("run", "--local")
    printed, report = call("report", "--paper")
    assert str(report / "paper") in "".join(printed.split())
    names = {path.name for path in (report / "paper").iterdir()}
    assert {"figure1.pdf", "captions.txt"} <= names
