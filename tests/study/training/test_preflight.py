"""One batch in the driver finds what would end a trial, and never what would not."""

from pathlib import Path

import pytest
import torch

from study.config.loader import Trial
from study.training import preflight as module
from study.training.preflight import preflight


def trial(workload, optimizer="adam-adam", **more):
    more = {"epochs": 2, "batch_size": 30} | more
    return Trial(workload, optimizer, 0.01, 1e-5, seed=0, **more)


@pytest.fixture
def said():
    return []


@pytest.mark.parametrize("optimizer", ["sgd", "sgdn-adam", "torch.optim.AdamW"])
def test_a_trial_that_trains_has_no_failure(users_workload, said, optimizer):
    for name in (users_workload(prepared=True), "digits-logreg", "digits-mlp"):
        assert preflight(trial(name, optimizer), None, on_message=said.append) is None
    assert said == []


MISTAKES = {
    "layer width": ({"model": "nn.Linear(9, 3)"}, "mat1 and mat2", "def work"),
    "labels from 1": ({"data": "targets += 1"}, "Target 3 is out of bounds", "F.cross_entropy"),
    "a rare label": ({"data": "targets[31] = 7"}, "Target 7 is out of bounds", "F.cross_entropy"),
    "a label in validation": ({"data": "targets[101] = 7"}, "Target 7 is out of bounds", "F.cross_entropy"),
    "forward": ({"model": "Net()", "forward": "raise KeyError('f')"}, "KeyError: 'f'", "raise KeyError"),
    "loss": ({"loss": "raise KeyError('l')"}, "KeyError: 'l'", "raise KeyError"),
    "no gradient": ({"loss": "outputs = outputs.detach()"}, "does not require grad", None),
    "prepare": ({"prepared": True, "prepare": "inputs = inputs[:, :5]"}, "mat1 and mat2", None),
    "build": ({"build": "raise KeyError('b')"}, "KeyError: 'b'", "raise KeyError"),
    "load": ({"load": "open('/missing/file')"}, "No such file", "open('/missing/file')"),
    "work": ({"work": "raise KeyError('w')"}, "KeyError: 'w'", "raise KeyError"),
    "module": ({"top": "raise KeyError('t')"}, "KeyError: 't'", "raise KeyError"),
    "it ends the process": ({"load": "raise SystemExit(3)"}, "SystemExit: 3", "raise SystemExit"),
}


@pytest.mark.parametrize(("mistake", "cause", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_cause_and_the_users_line(users_workload, tmp_path, mistake, cause, line):
    name = users_workload(**mistake)
    failure = preflight(trial(name), None)
    assert cause in failure.cause
    assert (failure.workloads, failure.optimizers, failure.trials) == ((name,), ("adam-adam",), 1)
    path, number = failure.place.rsplit(":", 1)
    assert path == str(tmp_path / "users" / name.replace(":work", ".py"))
    source = Path(path).read_text().splitlines()[int(number) - 1]
    if line is not None:
        assert line in source


@pytest.mark.parametrize(
    ("optimizer", "more", "cause"),
    [
        ("torch.optim.Adamm", {}, "torch.optim has no class 'Adamm'"),
        ("torch.optim.LBFGS", {}, "closure"),
        ("adam-adam", {"optimizer_args": {"eps": "x"}}, "eps"),
    ],
)
def test_an_optimizers_mistake_is_told_too(users_workload, optimizer, more, cause):
    assert cause in preflight(trial(users_workload(), optimizer, **more), None).cause


def test_a_last_batch_of_one_row_is_tried_and_the_message_says_what_helps(users_workload):
    name = users_workload(model="nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))")
    assert preflight(trial(name), None) is None  # three batches of 30
    failure = preflight(trial(name, batch_size=89), None)
    assert "drop_last: true" in failure.cause
    assert "Expected more than 1 value per channel" in failure.cause
    assert "drop_last: true" in preflight(trial(name, batch_size=89, epochs=None, iterations=2), None).cause
    assert preflight(trial(name, batch_size=89, epochs=None, iterations=1), None) is None
    assert preflight(trial(name, batch_size=89, drop_last=True), None) is None


def test_a_model_that_only_takes_whole_batches_passes(users_workload):
    name = users_workload(model="Net()", forward="inputs = inputs.view(30, 8)")
    assert preflight(trial(name), None) is None


def test_what_does_not_fit_into_the_driver_is_skipped_with_a_line(
    users_workload, said, monkeypatch, tmp_path
):
    name = users_workload(loss="raise KeyError('l')")
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    assert preflight(trial(name), None, on_message=said.append) is None
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "users")
    monkeypatch.setattr(module, "MOST_SECONDS", 0.0)
    assert preflight(trial(name), None, on_message=said.append) is None
    monkeypatch.setattr(module, "MOST_SECONDS", 10.0)
    monkeypatch.setattr("torchvision.datasets.MNIST.download", offline)
    assert preflight(trial("mnist-logreg"), tmp_path / "empty", on_message=said.append) is None
    too_large, too_slow, absent = said
    assert too_large.startswith(f"{name} with adam-adam is not tried before the start: its model has 0 MB")
    assert "on the CPU" in too_slow
    assert "MNIST is incomplete in" in absent


def offline(self):
    raise RuntimeError("no network")


def test_code_that_needs_a_gpu_is_no_failure_where_the_trial_is_given_one(users_workload, said):
    name = users_workload(forward="inputs.cuda()", model="Net()")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert preflight(trial(name), None, gpus=1, on_message=said.append) is None
    assert "it needs a GPU" in said[0]
    assert preflight(trial(name), None) is not None


def test_nothing_of_the_process_is_changed(users_workload):
    name = users_workload(load="torch.set_default_dtype(torch.float64)", build="torch.manual_seed(3)")
    before = torch.get_rng_state()
    preflight(trial(name), None)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before)
