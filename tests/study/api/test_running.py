"""A study that Python runs: what it returns, what it refuses, what it shows, and that it resumes."""

import pytest

import study
from study.execution.executor import ExecutorError

SPEC = {
    "name": "small",
    "workloads": ["digits-logreg"],
    "optimizers": ["sgd", "adam-adam"],
    "alpha0": [0.01],
    "beta": 1e-5,
    "seeds": 2,
    "epochs": 1,
}


def stamps(results):
    return {record.trial.key: record.ended_ms for record in results._records}


def test_a_study_resumes_and_grows(tmp_path):
    first = study.run(SPEC, runs=tmp_path, local=True, report=False, progress=False)
    more = study.run({**SPEC, "seeds": 3}, runs=tmp_path, local=True, report=False, progress=False)
    assert [*first.failures, *more.failures] == []
    assert (first.progress.done, more.progress.done) == (4, 6)
    assert stamps(first).items() <= stamps(more).items()  # not trained again
    assert not (tmp_path / "small" / "report").exists()


@pytest.mark.ray
def test_ray_runs_two_studies_of_one_process_one_after_the_other(tmp_path):
    local = study.run(SPEC, runs=tmp_path / "local", local=True, report=False, progress=False)
    for _ in range(2):
        SPEC["epochs"] += 1
        ran = study.run(SPEC, runs=tmp_path / "ray", cpus=1, report=False, progress=False)
        assert ran.progress.done == ran.progress.total == 4
    both = ran.epochs().query("epoch == 1")["train_loss"]
    assert both.tolist() == pytest.approx(local.epochs()["train_loss"].tolist(), rel=1e-4)


def test_the_report_is_written_and_what_is_shown_goes_to_stderr(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(study.load_study(SPEC).to_yaml())
    results = study.run(file, runs=tmp_path / "runs", local=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "4/4 trials done" in err
    assert err.splitlines()[-1] == f"report: {results.path / 'report' / 'index.html'}"
    assert (results.path / "report" / "index.html").is_file()


def test_progress_is_handed_to_a_function(tmp_path):
    seen = []
    study.run(SPEC, runs=tmp_path, local=True, report=False, progress=lambda p: seen.append(p.done))
    assert seen[-1] == 4
    assert seen == sorted(seen)


def test_a_study_with_mistakes_is_refused_with_their_places(tmp_path):
    with pytest.raises(study.ConfigError) as caught:
        study.run({**SPEC, "optimizers": ["sgd", {"name": "adamm"}], "epoch": 3}, runs=tmp_path)
    assert [line.partition(": ")[0] for line in caught.value.problems] == ["optimizers[1].name", "epoch"]
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_contradict_each_other_are_refused(tmp_path):
    with pytest.raises(ValueError, match="leave out address and cpus"):
        study.run(SPEC, runs=tmp_path, local=True, address="auto", cpus=1)
    with pytest.raises(ValueError, match="leave out cpus"):
        study.run(SPEC, runs=tmp_path, address="auto", cpus=1)


def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ExecutorError, match="asks for 1 GPUs"):
        study.run({**SPEC, "resources": {"gpus": 1}}, runs=tmp_path, local=True, progress=False)


def test_failures_are_in_the_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(
        "from dataclasses import replace\nfrom study.workloads.registry import resolve\n"
        "def make():\n    def build():\n        raise ValueError('no model')\n"
        "    return replace(resolve('digits-logreg', {}), name='broken', build=build)\n"
    )
    results = study.run({**SPEC, "workloads": ["broken:make"]}, runs=tmp_path / "runs", local=True)
    assert results.progress.failed == 4
    (failure,) = results.failures
    assert (failure.cause, failure.trials) == ("ValueError: no model", 4)
    assert "4 trials failed: ValueError: no model" in capsys.readouterr().err
