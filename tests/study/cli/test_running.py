"""What `run` and `plan` say when something is wrong: the user's own mistake first, in a line, at once."""

import os
import re
import subprocess
import sys
import textwrap

import pytest

from study.cli import commands
from study.storage.study_folder import StudyFolder

PROGRAM = [sys.executable, "-m", "study"]
MISTAKES = """
import torch
from torch import nn
from study.workloads.base import Data, Workload

class Model(nn.Module):
    def __init__(self, width, wrong):
        super().__init__()
        self.layer, self.wrong = nn.Linear(width, 2), wrong

    def forward(self, inputs):
        if self.wrong == "model":
            raise ValueError("the model is wrong")  # model
        return self.layer(inputs)

class Step(torch.optim.SGD):
    def step(self, closure=None):
        raise ArithmeticError("the optimizer is wrong")  # optimizer

def make(wrong="nothing", width=8):
    def load(folder):
        if wrong == "load":
            raise KeyError("the data are wrong")  # load
        torch.manual_seed(0)
        x, y = torch.randn(64, 8), torch.arange(64) % 2
        return Data(x[:40], y[:40] + (wrong == "labels"), x[40:], y[40:])

    def loss(outputs, targets):
        if wrong == "loss":
            raise RuntimeError("the loss is wrong")  # loss
        return nn.functional.cross_entropy(outputs, targets)

    def build():
        if wrong == "build":
            raise TypeError("the model cannot be made")  # build
        return Model(width, wrong)

    def prepare(inputs, random):
        if wrong == "batch" and random is not None and len(inputs) < 16:
            raise OverflowError("the third batch is wrong")  # batch
        if wrong == "prepare":
            raise LookupError("the batch is wrong")  # prepare
        return inputs

    return Workload("mistaken", load, build, loss, prepare)
"""
LINES = {line.rpartition("# ")[2]: n for n, line in enumerate(MISTAKES.splitlines(), 1) if "  # " in line}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, where the mistakes lie in a module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    return tmp_path


@pytest.fixture
def say(monkeypatch, capsys):
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


def assert_says(text, count, cause, place, names):
    """A block: how many trials failed and why, where, and which."""
    noun = "trial" if count == 1 else "trials"
    assert re.search(rf"^{count} {noun} failed: {re.escape(cause)}", text, re.M), text
    assert f"\n  at {place}\n" in text
    assert f"\n  {names}\n" in text


WRONG = {
    "model": "ValueError: the model is wrong",
    "loss": "RuntimeError: the loss is wrong",
    "load": "KeyError: 'the data are wrong'",
    "build": "TypeError: the model cannot be made",
    "prepare": "LookupError: the batch is wrong",
    "batch": "OverflowError: the third batch is wrong",
}


def test_every_mistake_in_a_workload_is_said_with_its_place_and_all_else_trains(say, home, write_study):
    _, path = write_study(
        workloads=[*({"use": "mistakes:make", "wrong": wrong} for wrong in WRONG), "digits-logreg"],
        optimizers=["sgd", "adam-adam"],
        seeds=4,
        epochs=1,
        batch_size=16,
        threshold=None,
    )
    done = command("run", path, "--runs", home / "runs", "--local", cwd=home)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == len(WRONG), "--local shows the whole of each, once"
    assert "digits-logreg" in done.stdout
    assert (home / "runs" / "small" / "report" / "index.html").exists()
    code, status, errors = say("status", "small", "--runs", home / "runs")
    assert code == 0
    assert "8/56 trials done, 48 failed" in status
    assert "Traceback" not in errors
    _, _, tracebacks = say("status", "small", "--runs", home / "runs", "--tracebacks")
    assert tracebacks.count("Traceback (most recent call last)") == len(WRONG)
    for wrong, cause in WRONG.items():
        place = f"{home / 'mistakes.py'}:{LINES[wrong]}"
        assert_says(done.stderr, 8, cause, place, "mistakes:make with sgd, adam-adam")
        assert_says(errors, 8, cause, place, "mistakes:make with sgd, adam-adam")
        assert cause in tracebacks


def test_each_cause_is_said_once(home, write_study):
    _, path = write_study(
        workloads=[{"use": "mistakes:make", "wrong": wrong} for wrong in ("model", "labels")],
        optimizers=["sgd", "mistakes.Step"],
        seeds=2,
        epochs=1,
        threshold=None,
    )
    done = command("run", path, "--runs", home / "runs", "--local", cwd=home)
    assert done.returncode == 1
    heads = [line for line in done.stderr.splitlines() if re.match(r"\d+ trials failed: ", line)]
    assert heads == [
        "4 trials failed: ValueError: the model is wrong",
        "4 trials failed: IndexError: Target 2 is out of bounds.",
    ]
    assert "no trial has finished an epoch, so there is no report" in done.stdout
    assert "nothing to report" not in done.stdout + done.stderr


@pytest.mark.ray
def test_on_ray_what_passes_the_first_batch_and_fails_later_is_said_as_well(home, write_study):
    _, path = write_study(
        workloads=[{"use": "mistakes:make", "wrong": "batch"}, "digits-logreg"],
        optimizers=["sgd"],
        seeds=3,
        epochs=1,
        batch_size=16,
        threshold=None,
    )
    done = command("run", path, "--runs", home / "runs", "--cpus", 1, cwd=home)
    assert done.returncode == 1
    place = f"{home / 'mistakes.py'}:{LINES['batch']}"
    assert_says(done.stderr, 3, "OverflowError: the third batch is wrong", place, "mistakes:make with sgd")
    assert "tracebacks: python -m study status small --tracebacks" in done.stderr
    assert "Traceback" not in done.stderr
    assert "digits-logreg" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"optimizers": ["torch.optim.Adamm"]},
            r"torch\.optim has no class 'Adamm' \(did you mean 'Adam'\?\)",
        ),
        ({"workloads": ["mymod:work"]}, "no module 'mymod' installed, on PYTHONPATH, or in "),
        ({"workloads": ["mistakes:mak"]}, r"mistakes has no .*'mak' \(did you mean 'make'\?\)"),
        ({"optimizers": ["mistakes.Stp"]}, r"mistakes has no .*'Stp' \(did you mean 'Step'\?\)"),
        ({"optimizers": ["mistakes.deep.Step"]}, "no module 'mistakes.deep'|not a package"),
        (
            {"optimizers": [{"name": "torch.optim.AdamW", "args": {"betaz": 1}}]},
            "unexpected keyword argument 'betaz'",
        ),
        ({"workloads": [{"use": "digits-mlp", "widht": 3}]}, "unexpected keyword argument 'widht'"),
        (
            {
                "search": {"points": 2, "args": {"n_startup": 3}},
                "alpha0": {"low": 0.1, "high": 1},
                "optimizers": ["sgd"],
            },
            "cannot make the sampler tpe: .*n_startup",
        ),
    ],
)
def test_plan_and_run_refuse_the_same_names_at_once_and_leave_nothing_behind(
    say, home, write_study, change, words
):
    _, path = write_study(**change)
    for command in ("plan", "run"):
        code, _, err = say(command, path, "--runs", home / "runs")
        assert code == 2
        (line,) = err.splitlines()
        assert re.search(f"^error: .*({words})", line), line
        assert not (home / "runs").exists()


def test_a_search_for_the_accuracy_of_a_regression_is_refused(say, home, write_study):
    _, path = write_study(
        workloads=["friedman-mlp"],
        optimizers=["sgd"],
        alpha0={"low": 0.1, "high": 1},
        search={"points": 2, "objective": "best_val_accuracy"},
        threshold=None,
    )
    code, _, err = say("run", path, "--local", "--runs", home / "runs")
    assert code == 2
    assert "workload 'friedman-mlp': its targets are no classes, so it has no accuracy to search for" in err
    assert not list((home / "runs").glob("**/*.journal"))


def test_plan_says_what_it_did_not_check_and_checks_it_if_told_to(say, home, write_study):
    _, path = write_study(workloads=[{"use": "mistakes:make", "colour": "red"}], threshold=None)
    code, out, _ = say("plan", path)
    assert code == 0
    assert (
        "not checked: mistakes:make: code of your own, imported only with --imports and when it runs" in out
    )
    code, _, err = say("plan", path, "--imports")
    assert code == 2
    assert "unexpected keyword argument 'colour'" in err
    _, path = write_study(workloads=["mistakes:make"], threshold=None)
    code, out, _ = say("plan", path, "--imports")
    assert code == 0
    assert "not checked" not in out


def test_plan_takes_the_data_folder_that_run_takes(say, home, write_study):
    _, path = write_study()
    for folder, said in (("data", ", not there yet: data sets are downloaded into it"), (".", "")):
        code, out, _ = say("plan", path, "--data", folder)
        assert code == 0
        assert f"data: {folder}{said}\n" in out
    code, _, err = say("plan", path, "--data", "mistakes.py")
    assert code == 2
    assert "is a file" in err


def test_plan_asks_the_server_that_run_would_use(say, home, write_study):
    _, path = write_study()
    code, _, err = say("plan", path, "--tracking-uri", "http://127.0.0.1:9")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "127.0.0.1:9" in line


def test_plan_refuses_a_folder_of_runs_that_cannot_be_written(say, home, write_study, monkeypatch):
    _, path = write_study()
    access = os.access
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != home and access(path, mode))
    code, _, err = say("plan", path, "--runs", home / "runs")
    assert (code, err) == (
        2,
        f"error: {home}: the folder of runs cannot be written there; name another with --runs\n",
    )


def test_plan_names_a_data_set_that_is_not_there_yet(say, home, write_study):
    _, path = write_study(workloads=["mnist-logreg"], threshold=None)
    _, out, _ = say("plan", path, "--data", home / "data")
    place = home / "data" / "MNIST" / "raw"
    assert f"data: MNIST in {place}, not there yet: 12 MB are downloaded\n" in out
    place.mkdir(parents=True)
    _, out, _ = say("plan", path, "--data", home / "data")
    assert f"data: MNIST in {place}\n" in out


def test_plan_tells_the_time_by_what_ran_before(say, home, write_study):
    """Twelve trials take longer than six, which take longer than nothing."""
    _, path = write_study(seeds=2)
    assert say("run", path, "--runs", home / "runs", "--local")[0] == 0

    def seconds(*options):
        _, out, _ = say("plan", path, "--runs", home / "others", "--cpus", 1, *options)
        found = re.search(r"time: about ([\d.]+) (s|min|h), by earlier runs on this machine", out)
        return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]

    assert seconds() > 0
    assert seconds("--set", "epochs=20000") > seconds()
    _, out, _ = say("plan", path, "--runs", home / "others", "--set", "optimizers=[adam, sgd]")
    assert "time: unknown until these have run here once: digits-logreg with adam\n" in out
    _, out, _ = say("plan", path, "--runs", home / "runs", "--hours", 1)
    assert "time: nothing is left to train\n" in out
    assert "budget: 60 min: if it is up before the end, the run ends with a report; whole seeds first" in out
    _, out, _ = say("plan", path, "--runs", home / "others", "--hours", 10)
    assert "budget: 10.0 h, enough for everything\n" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--local", "--address", "auto"],
            "--local trains in this process, without Ray; leave out --address",
        ),
        (["--local", "--cpus", "2", "--gpus", "0"], "leave out --cpus and --gpus"),
        (
            ["--address", "auto", "--cpus", "2"],
            "--cpus: only for a Ray that this command starts; leave it out",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(say, home, write_study, options, words):
    _, path = write_study()
    code, _, err = say("run", path, "--runs", home / "runs", *options)
    assert code == 2
    assert words in err
    assert not (home / "runs").exists()


def test_local_runs_without_ray(home, write_study):
    _, path = write_study(seeds=1)
    program = textwrap.dedent(
        """
        import sys
        from study.cli.commands import main
        try:
            main()
        finally:
            print("imported:", [name for name in sys.modules if name.partition(".")[0] == "ray"])
        """
    )
    words = [sys.executable, "-c", program, "run", path, "--runs", home / "runs", "--local"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "3/3 trials done" in done.stdout
    assert "imported: []" in done.stdout
    assert (home / "runs" / "small" / "report" / "index.html").exists()


def test_a_breakpoint_in_a_workload_stops_in_the_terminal(home, write_study):
    (home / "stops.py").write_text(MISTAKES.replace("def forward(self, inputs):", STOP))
    _, path = write_study(workloads=["stops:make"], optimizers=["sgd"], seeds=1, epochs=1, threshold=None)
    # Ray, where it is imported as here, sets a debugger of its own for all child processes.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONBREAKPOINT"}
    done = subprocess.run(
        [*PROGRAM, "run", path, "--runs", home / "runs", "--local"],
        input="p 'stopped at', inputs.shape[1]\ncontinue\n",
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
    )
    assert "('stopped at', 8)" in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr


STOP = """stopped = False

    def forward(self, inputs):
        if not Model.stopped:
            Model.stopped = True
            breakpoint()"""


def test_missing_data_are_said_in_the_last_line(home, write_study):
    """torchvision brings extensions that print much when they end."""
    _, path = write_study(workloads=["mnist-logreg"], optimizers=["sgd"], seeds=1)
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    arguments = ["run", path, "--runs", home / "runs", "--data", home / "data", "--local"]
    done = command(*arguments, cwd=home, env={**os.environ, **nowhere})
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: MNIST is incomplete in {home / 'data' / 'MNIST' / 'raw'}")
    assert not (home / "runs").exists()


def test_if_every_trial_diverged_no_best_loss_is_shown(say, home, write_study):
    _, path = write_study(optimizers=["sgd"], alpha0=[1e6], workloads=["digits-mlp"], seeds=2)
    code, out, _ = say("run", path, "--runs", home / "runs", "--local")
    assert code == 0
    assert "2/2 trials done, 2 diverged\n" in out
    assert "nan" not in out
    code, out, _ = say("status", "small", "--runs", home / "runs")
    assert "2/2 trials done, 2 diverged\n" in out
    assert "nan" not in out


@pytest.mark.ray
def test_a_study_that_leaves_gpus_unused_says_so_in_a_line(home, write_study):
    _, path = write_study(optimizers=["sgd"], seeds=1, epochs=1)
    done = command("run", path, "--runs", home / "runs", "--cpus", 1, "--gpus", 2, cwd=home)
    assert done.returncode == 0, done.stderr
    said = "there are 2 GPUs, and the study asks for none: it trains on CPUs; for one GPU per trial write "
    assert done.stdout.count(said) == 1


class TestFoldersThatAreNotAsTheyShouldBe:
    @pytest.fixture
    def trained(self, say, home, write_study):
        study, path = write_study(optimizers=["sgd", "adam"], seeds=1, epochs=1)
        assert say("run", path, "--runs", home / "runs", "--local")[0] == 0
        folder = StudyFolder(home / "runs", "small")
        return path, [folder.journal(trial) for trial in study.trials()]

    @pytest.mark.parametrize(
        ("break_it", "words"),
        [
            (lambda one, other: (one.unlink(), one.mkdir()), r"\.journal: Is a directory"),
            (
                lambda one, other: one.write_bytes(other.read_bytes()),
                "the journal of trial [0-9a-f]{16} holds trial [0-9a-f]{16}",
            ),
        ],
    )
    def test_a_journal_that_cannot_be_read_is_one_line_in_every_command(
        self, say, home, trained, break_it, words
    ):
        path, journals = trained
        break_it(*journals)
        runs = ["--runs", home / "runs"]
        for words_ in (["status", "small"], ["report", "small"], ["compare", "small"], ["export", "small"]):
            code, _, err = say(*words_, *runs)
            assert (code, len(err.splitlines())) == (2, 1), err
            assert re.search(f"^error: .*{words}", err)
        for command in ("plan", "run"):
            code, _, err = say(command, path, *runs)
            assert (code, len(err.splitlines())) == (2, 1), err
            assert re.search(f"^error: .*{words}", err)

    @pytest.mark.parametrize("command", ["run", "plan", "status", "report", "compare", "export", "ui"])
    def test_a_file_in_place_of_the_folder_of_runs_is_refused(self, say, home, write_study, command):
        _, path = write_study()
        (home / "file").touch()
        code, _, err = say(command, path, "--runs", home / "file")
        assert code == 2
        assert "is a file" in err
        assert "Traceback" not in err

    def test_a_file_in_place_of_a_folder_below_it_is_named(self, say, home, write_study):
        _, path = write_study()
        (home / "runs").mkdir()
        (home / "runs" / "small").touch()
        code, _, err = say("run", path, "--runs", home / "runs", "--local")
        assert code == 2
        (line,) = err.splitlines()
        assert re.match(rf"error: {home}/runs/small/.*: Not a directory$", line)


@pytest.mark.parametrize("command", ["status", "report", "compare", "export", "ui"])
def test_a_study_file_that_was_never_run_is_named(say, home, write_study, command):
    _, path = write_study()
    code, _, err = say(command, path, "--runs", home / "runs")
    assert code == 2
    assert err == f"error: {path}: no study of that name was run under {home / 'runs'}; studies there: none\n"
