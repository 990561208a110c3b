"""The commands as a person types them: what is said, where things are, and the exit code."""

import re
import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from study.cli import commands
from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri

PROGRAM = [sys.executable, "-m", "study"]


@pytest.fixture
def say(monkeypatch, capsys):
    """A function that runs a command in this process and returns its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def command(*arguments, **options):
    words = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=240, **options)


def test_help_names_every_command(say):
    code, out, _ = say("--help")
    assert code == 0
    for name in ("run", "plan", "report", "compare", "export", "ui", "presets", "status"):
        assert re.search(rf"^\W*{name}\b", out, re.M), name


def test_presets_are_listed_and_printed_as_files_that_load(say, tmp_path):
    code, out, _ = say("presets")
    assert code == 0
    figures = ["figure1-logreg", "figure1-mlp", "figure1-vgg", "alpha0-logreg", "alpha0-mlp", "alpha0-vgg"]
    for name in ("quickstart", *figures):
        assert name in out
        code, text, _ = say("presets", name)
        (tmp_path / "copy.yaml").write_text(text)
        assert code == 0
        assert load_study(tmp_path / "copy.yaml") == load_study(name)


@pytest.mark.parametrize(("workload", "without"), [("digits-mlp", True), ("digits-logreg", False)])
def test_plan_names_workloads_without_a_threshold(say, tmp_path, workload, without):
    settings = (f"workloads={workload}", "optimizers=[sgd, adam]", "seeds=1")
    given = [word for setting in settings for word in ("--set", setting)]
    code, out, _ = say("plan", "rivals", *given, "--runs", tmp_path / "runs", "--cpus", 2)
    assert code == 0
    assert (f"threshold: none for {workload};" in out) == without
    assert ("threshold:" in out) == without


def test_plan_says_what_would_run_and_runs_nothing(say, write_study, tmp_path, monkeypatch):
    # Nothing has run here, whatever other tests have run.
    monkeypatch.setenv("HYPERGRAD_STUDY_CACHE", str(tmp_path / "cache"))
    _, path = write_study()
    code, out, _ = say("plan", path, "--runs", tmp_path / "runs", "--cpus", 2)
    assert code == 0
    assert "6 trials to run, 0 done already" in out
    assert "time: unknown until these have run here once: digits-logreg with sgd" in out
    assert f"iterations: {6 * 2 * 12}" in out  # 1437 digits in batches of 128, two epochs
    assert not (tmp_path / "runs").exists()


def test_plan_says_that_packs_on_a_gpu_are_not_captured(say, write_study, tmp_path):
    for pack, gpus, said in ((16, 1, True), (1, 1, False), (16, 0, False)):
        _, path = write_study(pack=pack, resources={"gpus": gpus})
        code, out, _ = say("plan", path, "--runs", tmp_path / "runs", "--cpus", 2, "--gpus", 1)
        assert code == 0
        assert ("CUDA graphs: off" in out) is said


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "no-such-preset"),
        ("plan", "quikstart"),
        ("status", "never-run"),
        ("report", "never-run"),
        ("ui", "never-run"),
        ("presets", "nope"),
        ("run", "quickstart", "--tracking-uri", "http://127.0.0.1:9"),
        ("run", "{study}", "--address", "127.0.0.1:9"),
        ("run", "quickstart", "--cpus", "none"),
        ("run", "quickstart", "--runs", "/proc/nowhere"),
        ("dance",),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(say, write_study, tmp_path, arguments, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, path = write_study()
    code, out, err = say(*(str(argument).format(study=path) for argument in arguments))
    assert code == 2
    assert "Traceback" not in out + err
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines
    if lines[0].startswith("error:"):  # ours; typer draws a box around what it refuses itself
        assert len(lines) == 1
    assert not list(tmp_path.glob("runs/*/trials"))


def test_every_problem_of_a_study_file_is_a_line_with_its_place(say, tmp_path):
    path = tmp_path / "bad.yaml"
    lines = ["name: x", "workloads: [digits-logre]", "optimizers: [adam-adm]", "alpha0: []", "beta: -1"]
    path.write_text("\n".join([*lines, "seeds: 2", "epochs: 2"]))
    code, _, err = say("run", path)
    assert code == 2
    for line, what in ((2, "digits-logreg"), (3, "adam-adam"), (4, "alpha0"), (5, "beta")):
        assert re.search(rf"^error: \S*bad.yaml:{line}: .*{what}", err, re.M), err


@pytest.mark.ray
def test_a_study_from_first_run_to_report(write_study, tmp_path):
    study, path = write_study()
    runs = tmp_path / "runs"
    done = command("run", path, "--runs", runs, "--cpus", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6/6 trials done" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for name in ("index.html", "figure1.png", "figure1.svg", "runtime.png", "trials.csv", "summary.csv"):
        assert (runs / "small" / "report" / name).stat().st_size > 0

    client = MlflowClient(tracking_uri=embedded_uri(runs))
    experiment = client.get_experiment_by_name("small")
    everything = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in everything if run.data.tags["role"] == "study"]
    children = [run for run in everything if run is not parent]
    assert {run.data.tags["trial_key"] for run in children} == {trial.key for trial in study.trials()}
    assert {run.info.status for run in everything} == {"FINISHED"}
    assert "report/index.html" in [file.path for file in client.list_artifacts(parent.info.run_id, "report")]

    journals = {file.name: file.read_bytes() for file in (runs / "small" / "trials").iterdir()}
    again = command("run", path, "--runs", runs, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {file.name: file.read_bytes() for file in (runs / "small" / "trials").iterdir()} == journals
    assert len(client.search_runs([experiment.experiment_id])) == len(everything)

    status = command("status", "small", "--runs", runs)
    assert status.returncode == 0
    assert "6/6 trials done" in status.stdout
    (runs / "small" / "report" / "index.html").unlink()
    report = command("report", "small", "--runs", runs)
    assert report.returncode == 0, report.stderr
    assert (runs / "small" / "report" / "index.html").exists()


@pytest.mark.ray
def test_other_optimizers_from_the_study_file_to_the_report(write_study, tmp_path):
    """One of torch's along a schedule, and one in a file beside the study, which the workers import too."""
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Twice(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, times=2):\n        super().__init__(params, lr=times * lr)\n"
    )
    study, path = write_study(
        optimizers=[
            *("sgd", {"name": "torch.optim.AdamW", "schedule": {"name": "cosine", "warmup": 1}}),
            {"name": "mine.Twice", "label": "two times SGD", "args": {"times": 3}},
        ],
        weight_decay=0,
    )
    runs = tmp_path / "runs"
    done = command("run", path, "--runs", runs, "--cpus", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6/6 trials done" in done.stdout
    records = StudyFolder(runs, "small").records(study.trials())
    alphas = {r.trial.label: r.alpha for r in records}
    assert set(alphas["sgd"]) == {0.01}
    assert set(alphas["two times SGD"]) == {0.03}
    assert alphas["AdamW cosine warmup=1"][[0, 11]].tolist() == pytest.approx([0.01 / 12, 0.01])
    page = (runs / "small" / "report" / "index.html").read_text()
    for label in alphas:
        assert label in done.stdout
        assert label in page


@pytest.mark.parametrize("where", [["--local"], pytest.param(["--cpus", "1"], marks=pytest.mark.ray)])
def test_interrupted_it_says_how_to_resume_and_resumed_it_ends_as_if_undisturbed(
    write_study, tmp_path, where
):
    _, path = write_study(optimizers=["adam-adam"], seeds=3, epochs=300)
    runs, calm = tmp_path / "runs", tmp_path / "calm"
    process = subprocess.Popen(
        [*PROGRAM, "run", path, "--runs", runs, *where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    deadline = time.monotonic() + 120
    while not any(file.stat().st_size > 2_000 for file in runs.glob("small/trials/*")):
        assert time.monotonic() < deadline, process.communicate()
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"resume with: python -m study run {path} --runs {runs} {' '.join(where)}" in err.splitlines()
    assert "Traceback" not in err

    # Whatever it was in the middle of, a resumed and an undisturbed run leave the same behind.
    for folder, how in ((runs, where), (calm, ["--local"])):
        done = command("run", path, "--runs", folder, *how, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    metrics = []
    for folder in (runs, calm):
        client = MlflowClient(tracking_uri=embedded_uri(folder))
        experiment = client.get_experiment_by_name("small").experiment_id
        assert client.search_runs([experiment], "attributes.status = 'RUNNING'") == []
        found = {}
        for run in client.search_runs([experiment], "tags.role = 'trial'"):
            for name in ("alpha", "train_loss", "val_loss"):
                history = client.get_metric_history(run.info.run_id, name)
                found[run.data.tags["trial_key"], name] = [(m.step, m.value) for m in history]
        metrics.append(found)
    assert metrics[0].keys() == metrics[1].keys()
    assert len(metrics[0]) == 9
    assert metrics[0] == metrics[1]


@pytest.mark.ray
def test_failed_trials_are_listed_and_the_exit_code_says_so(write_study, tmp_path):
    wrong = {"name": "adam-adam", "args": {"lop_betas": [2.0, 0.5]}}
    _, path = write_study(optimizers=["sgd", wrong], seeds=1)
    done = command("run", path, "--runs", tmp_path / "runs", "--cpus", 1, cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^1 trial failed: ValueError: .*lop_betas", done.stderr, re.M)
    assert "Traceback" not in done.stderr
