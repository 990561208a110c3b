"""What comes from someone who means harm: no traceback, no file elsewhere, no command run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.cli import commands
from study.config.loader import Trial, load_study

NAMES = [
    "a b",
    "it's",
    'say "no"',
    "../../etc/passwd",
    "..",
    ".",
    "/",
    "/etc/passwd",
    "a/b",
    "$(touch made)",
    "`touch made`; touch made",
    "a\nb",
    "a\x00b",
    "\x1b[31mred",
    "😀",
    "[bold]x[/bold]",
    "--runs",
    "-",
    "",
    "x" * 10_000,
]
COMMANDS = [["run"], ["plan"], ["status"], ["report"], ["presets"], ["ui", "--no-browser"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_a_name_that_is_none(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    arguments = ["hypergrad-study", *command, "--", name]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        commands.main()
    said = capsys.readouterr()
    assert ended.value.code == 2
    assert "Traceback" not in said.err
    assert said.err.strip()
    # One line of ours, or click's usage and its one line.
    assert sum("rror:" in line for line in said.err.splitlines()) == 1
    assert len(said.err) < 1500
    assert all(character.isprintable() or character == "\n" for character in said.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*NAMES, "con..fig", ".hidden", "trailing/"])
def test_a_studys_own_name_is_a_folders_or_refused(tmp_path, name, monkeypatch, capsys):
    path = tmp_path / "study.yaml"
    content = {"name": name, "workloads": "digits-logreg", "optimizers": "sgd", "alpha0": 0.1, "epochs": 1}
    path.write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["hypergrad-study", "run", str(path), "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {path}")
    assert list(tmp_path.iterdir()) == [path]


@given(
    st.lists(
        st.builds(
            Trial,
            workload=st.sampled_from(["digits-logreg", "mnist-mlp", "a:b"]),
            optimizer=st.sampled_from(["sgd", "sgd-sgd", "adam-adam"]),
            alpha0=st.floats(0, 1),
            beta=st.floats(0, 1),
            seed=st.integers(0, 2**32 - 1),
            epochs=st.integers(1, 1000),
            batch_size=st.integers(1, 1000),
            weight_decay=st.floats(0, 1),
            granularity=st.sampled_from(["group", "tensor", "released"]),
            workload_args=st.dictionaries(st.text(max_size=2), st.integers(0, 3) | st.booleans(), max_size=2),
        ),
        max_size=30,
    )
)
def test_keys_are_equal_exactly_where_settings_are(trials):
    by_key = {}
    for trial in trials:
        settings_ = by_key.setdefault(trial.key, trial.settings())
        assert repr(sorted(settings_.items())) == repr(sorted(trial.settings().items()))
        assert Trial.from_settings(trial.settings()).key == trial.key
    assert len(by_key) == len({repr(sorted(trial.settings().items())) for trial in trials})


def test_a_workload_from_a_file_is_not_imported_before_it_runs(tmp_path, monkeypatch, capsys):
    """`plan` of a stranger's file is safe."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'made')!r}, 'w')\ndef load(): pass\n")
    path = tmp_path / "study.yaml"
    path.write_text("{name: s, workloads: 'stranger:load', optimizers: sgd, alpha0: 0.1, epochs: 1}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.argv", ["hypergrad-study", "plan", str(path)])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert not ended.value.code
    assert load_study(path).trials()[0].workload == "stranger:load"
    assert not (tmp_path / "made").exists()
