"""docker/ on a real Docker engine: a cluster of its own, from nothing up to down again.

Builds the image first, PyTorch's CUDA build included: minutes and 10 GB, once. Where the official PostgreSQL
image cannot be pulled, a stand-in is built from Debian's package.
"""

import base64
import io
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from study.config.loader import Study, load_study
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking.mlflow_backend.backend import runs_page
from study.training.worker import run_bundle

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "python:3.11-slim-bookworm", "hypergrad-study:test"
OFFICIAL_POSTGRES, STAND_IN = "postgres:17", "hypergrad-study-test-postgres"
UP_SECONDS = 400
HEAD, WORKER = "ray-head", "ray-worker"
WITHOUT_TOKEN = ("-e", "RAY_AUTH_MODE=disabled", "-e", "RAY_AUTH_TOKEN_PATH=")

QUICKSTART = load_study("quickstart")
CLOSED = {
    "name": "closed",
    "workloads": ["digits-logreg"],
    "optimizers": ["sgd"],
    "alpha0": [0.01],
    "seeds": 1,
    "epochs": 4,
}
# Six bundles of a trial each, as what they cost cannot be known; long enough on any machine for a worker to
# join, and to be killed in the middle of.
PACED = {
    "name": "paced",
    "workloads": ["paced:mlp"],
    "optimizers": ["sgdn-sgdn", "adam-adam"],
    "alpha0": [0.01],
    "beta": {"sgdn": 1e-3, "adam": 1e-5},
    "seeds": 3,
    "epochs": 200,
    "threshold": 0.5,
    "pack": 1,  # so that a bundle waits for the worker that joins
}
PACED_MODULE = """
import os, time
from dataclasses import replace
from study.workloads.registry import resolve

PAUSE = float(os.environ.get("PAUSE", "0.02"))

def mlp():
    def paced(inputs, generator):
        if generator is not None:
            time.sleep(PAUSE)
        return inputs
    return replace(resolve("digits-mlp", {}), name="paced", prepare=paced)
"""
# What users get wrong: a layer's width, labels from 1, and a default of torch that would reach other trials.
WRONG = {
    "name": "wrong",
    "workloads": ["wrong:width", "wrong:labels", "wrong:double", "digits-logreg"],
    "optimizers": ["adam"],
    "alpha0": [0.01],
    "seeds": 8,
    "epochs": 2,
}
WRONG_MODULE = """
from dataclasses import replace
import torch
from torch import nn
from study.workloads.registry import resolve

def changed(name, **values):
    return replace(resolve("digits-logreg", {}), name=name, **values)

def width():
    return changed("width", build=lambda: nn.Linear(65, 10))

def labels():
    def load(folder):
        data = resolve("digits-logreg", {}).load(folder)
        return replace(data, train_targets=data.train_targets + 1)
    return changed("labels", load=load)

def double():
    def load(folder):
        torch.set_default_dtype(torch.float64)
        data = resolve("digits-logreg", {}).load(folder)
        return replace(data, train_inputs=data.train_inputs.double(), val_inputs=data.val_inputs.double())
    return changed("double", load=load)
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]


def succeeds(*words: str, seconds: float = 60) -> bool:
    try:
        done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def compose_command() -> list[str]:
    if not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers here")
    for words in (["docker", "compose"], ["docker-compose"]):
        if succeeds(*words, "version"):
            return words
    pytest.skip("there is neither docker compose nor docker-compose here")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Cluster:
    """The compose project of this test: its own name, ports, secrets, volumes and folder of study files."""

    def __init__(self, compose: list[str], folder: Path, postgres: str) -> None:
        self.project = f"hypergrad-test-{secrets.token_hex(4)}"
        self.mlflow, self.jobs = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.user: tuple[str, str] | None = None
        self.studies, self.secrets = folder / "studies", folder / "secrets"
        self.studies.mkdir()
        self.settings = {
            "IMAGE": IMAGE,
            "POSTGRES_IMAGE": postgres,
            "MLFLOW_PORT": self.mlflow.rpartition(":")[2],
            "RAY_PORT": self.jobs.rpartition(":")[2],
            "SECRETS_FOLDER": str(self.secrets),
            "STUDIES_FOLDER": str(self.studies),
            "WORKERS": "2",
            "WORKER_CPUS": "1",
        }
        docker = ROOT / "docker"
        # Not the .env of whoever runs this; the environment goes before either.
        self._compose = [*compose, "--env-file", str(docker / ".env.example"), "-p", self.project]
        self._compose += ["-f", str(docker / "compose.yaml")]

    def compose(self, *words: str, check: bool = True, seconds: float = UP_SECONDS) -> str:
        """Run a compose command and return what it printed, errors too."""
        done = subprocess.run(
            [*self._compose, *words],
            env={**os.environ, **self.settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        assert done.returncode == 0 or not check, (
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        )
        return done.stdout

    def up(self, **settings: str) -> None:
        """Start what does not run with these settings, and wait until all of it is healthy."""
        self.settings |= settings
        self.compose("up", "-d")
        healthy = "{{.State.Health.Status}}"
        for service in ("mlflow", HEAD, WORKER):
            for name in self.containers(service):
                inspect = ["docker", "inspect", "--format", healthy, name]
                wait_for(lambda words=inspect: subprocess.check_output(words, text=True).strip() == "healthy")

    def down(self, *options: str) -> None:
        self.compose("down", *options)

    def shell(self, service: str, *words: str, options: tuple[str, ...] = (), check: bool = True) -> str:
        return self.compose("exec", "-T", *options, service, *words, check=check)

    def write(self, study: dict[str, object]) -> None:
        (self.studies / f"{study['name']}.yaml").write_text(yaml.safe_dump(study))

    def submit(self, study: str, *options: str, extra: tuple[str, ...] = (), check: bool = True) -> str:
        words = ["hypergrad-study", "run", study, "--address", "auto", *extra]
        return self.shell(HEAD, "ray", "job", "submit", *options, "--", *words, check=check)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def get(self, path: str, data: bytes | None = None, **headers: str) -> bytes:
        """Ask MLflow through its published port."""
        headers |= {"Content-Type": "application/json"}
        if self.user:
            headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.user).encode()).decode()
        request = urllib.request.Request(f"{self.mlflow}/api/2.0/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def runs(self, study: str) -> list[dict[str, object]]:
        """The runs of a study's trials, as MLflow has them."""
        query = f"mlflow/experiments/get-by-name?experiment_name={study}"
        experiment = json.loads(self.get(query))["experiment"]["experiment_id"]
        body = {"experiment_ids": [experiment], "max_results": 1000, "filter": "tags.role = 'trial'"}
        return json.loads(self.get("mlflow/runs/search", json.dumps(body).encode()))["runs"]

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        query = f"mlflow/metrics/get-history?run_id={run}&metric_key={metric}&max_results=20000"
        return [(int(point["step"]), point["value"]) for point in json.loads(self.get(query))["metrics"]]

    def curve(self, run: dict[str, object]) -> pd.DataFrame:
        """The whole curve of a run, downloaded through the server from its volume."""
        root = urllib.parse.urlparse(run["info"]["artifact_uri"])
        assert root.scheme == "mlflow-artifacts"
        return pd.read_parquet(io.BytesIO(self.get(f"mlflow-artifacts/artifacts{root.path}/curve.parquet")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    compose = compose_command()
    dockerfile = str(ROOT / "docker" / "Dockerfile")
    if not any(
        succeeds("docker", *words, BASE, seconds=600) for words in (["image", "inspect"], ["pull", "-q"])
    ):
        pytest.skip(f"the image {BASE}, to build from, is not here and cannot be pulled")
    build = ["docker", "build", "-t", IMAGE, "-f", dockerfile, str(ROOT)]
    subprocess.run(build, check=True, timeout=2400)
    postgres = OFFICIAL_POSTGRES
    if not (succeeds("docker", "image", "inspect", postgres) or succeeds("docker", "pull", "-q", postgres)):
        postgres = STAND_IN
        folder = str(Path(__file__).parent / "postgres-stand-in")
        subprocess.run(["docker", "build", "-t", postgres, folder], check=True, timeout=600)
    started = Cluster(compose, tmp_path_factory.mktemp("cluster"), postgres)
    subprocess.run([ROOT / "docker" / "make-secrets"], env={**os.environ, **started.settings}, check=True)
    for study in (CLOSED, PACED):
        started.write(study)
    (started.studies / "paced.py").write_text(PACED_MODULE)
    try:
        started.up()
        yield started
    finally:
        started.down("-v", "--remove-orphans")


def wait_for(what, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(1.0)
    return found


def tag(run: dict[str, object], name: str) -> str:
    return next(tag["value"] for tag in run["data"]["tags"] if tag["key"] == name)


def metric(run: dict[str, object], name: str) -> float:
    return next(metric["value"] for metric in run["data"]["metrics"] if metric["key"] == name)


def assert_whole(cluster: Cluster, study: Study, tmp_path: Path, *, rounding: float = 0.0) -> None:
    """Every trial has one finished run, with the curves that a plain loop without a cluster draws here.

    To the bit, or of trials that train in packs up to a share ``rounding`` of the curve's largest value.
    One in 50 of these may be at the edge of stability, where what is rounded otherwise grows: it agrees to
    the same share in its first quarter, and over all iterations in the mean.
    """
    at_the_edge = []
    trials = study.trials()
    here = StudyFolder(tmp_path / "here", "undisturbed")
    list(run_bundle(trials, here))
    found = cluster.runs(study.name)
    keys = [tag(run, "trial_key") for run in found]
    runs = dict(zip(keys, found, strict=True))
    assert sorted(keys) == sorted(trial.key for trial in trials)
    for record in here.records(trials):
        run = runs[record.trial.key]
        assert run["info"]["status"] == "FINISHED"
        curve = cluster.curve(run)
        assert list(curve["iteration"]) == list(range(1, record.iterations + 1))
        losses = sorted(cluster.history(run["info"]["run_id"], "val_loss"))
        assert [epoch for epoch, _ in losses] == [epoch.epoch for epoch in record.epochs]
        try:
            assert_alike(curve, losses, record, rounding)
        except AssertionError:
            if not rounding:
                raise
            assert_alike(curve, losses, record, rounding, share=0.25)
            for column in ("alpha", "train_loss"):
                difference = abs(curve[column].to_numpy() - getattr(record, column))
                assert difference.mean() <= rounding * abs(getattr(record, column)).max()
            at_the_edge.append(record.trial.name)
    assert len(at_the_edge) <= len(trials) // 50, at_the_edge


def assert_alike(
    curve: pd.DataFrame,
    losses: list[tuple[int, float]],
    record: TrialRecord,
    rounding: float,
    share: float = 1,
) -> None:
    """The first ``share`` of a trial's curves is that of its record."""
    end, epochs = int(share * record.iterations), int(share * len(record.epochs))
    for column in ("alpha", "hypergradient", "train_loss"):
        ours, theirs = curve[column].to_numpy(), getattr(record, column)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours[:end], theirs[:end], rtol=0, atol=rounding * abs(theirs).max())
    expected = [pytest.approx(epoch.val_loss, rel=max(rounding, 1e-6)) for epoch in record.epochs]
    assert [loss for _, loss in losses][:epochs] == expected[:epochs]


def assert_drawn(cluster: Cluster, study: str, folder: Path) -> None:
    """A browser sees the study's best runs, and the curve of α of one; screenshots are in ``folder``."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver on this machine; Debian: apt-get install chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1600,1200"):
        options.add_argument(flag)
    runs = sorted(cluster.runs(study), key=lambda run: metric(run, "best_val_loss"))
    best = [run["info"]["run_name"] for run in runs[:5]]
    learned = next(run["info"] for run in runs if tag(run, "optimizer") == "adam-adam")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(f"{cluster.mlflow}/{runs_page(cluster.mlflow, study)}")
        text = "return document.body.innerText"
        wait_for(lambda: all(name in browser.execute_script(text) for name in best))
        browser.save_screenshot(str(folder / "runs.png"))
        run = f"{cluster.mlflow}/#/experiments/{learned['experiment_id']}/runs/{learned['run_id']}"
        browser.get(run)
        wait_for(lambda: "Parent run" in browser.execute_script(text))
        browser.get(f"{run}/model-metrics")
        curve = (
            "return [...document.querySelectorAll('.scatterlayer .js-line')].map(p => p.getAttribute('d'))"
        )
        wait_for(lambda: any(d and d.count("L") + d.count("C") > 5 for d in browser.execute_script(curve)))
        browser.save_screenshot(str(folder / "run.png"))
    finally:
        browser.quit()


def test_a_ray_job_runs_the_quickstart_on_the_workers_into_mlflow(cluster, tmp_path):
    said = cluster.submit("quickstart")
    assert "324/324 trials done" in said
    assert f"{cluster.mlflow}/#/experiments/" in said
    assert_whole(cluster, QUICKSTART, tmp_path, rounding=5e-3)


def test_trials_can_only_go_to_the_workers(cluster):
    ask = "import ray; ray.init('ray-head:6379'); print([n['Resources'].get('CPU', 0) for n in ray.nodes()])"
    cpus = cluster.shell(WORKER, "python", "-c", ask).strip().splitlines()[-1]
    assert sorted(json.loads(cpus)) == [0, 1, 1]


def test_the_ui_in_a_browser_draws_alpha_from_postgresql(cluster, tmp_path):
    assert_drawn(cluster, "quickstart", tmp_path)


@pytest.mark.parametrize(
    ("service", "command"),
    [
        (HEAD, "ray job submit -- true"),
        (WORKER, "ray status --address ray-head:6379"),
        (WORKER, "python -c 'import ray; ray.init(\"ray-head:6379\"); print(len(ray.nodes()))'"),
    ],
    ids=["job", "status", "driver"],
)
def test_who_does_not_have_the_token_is_refused(cluster, service, command):
    limited = ["timeout", "100", "sh", "-c", f"{command} && echo let in"]
    assert "let in" in cluster.shell(service, *limited)
    said = cluster.shell(service, *limited, options=WITHOUT_TOKEN, check=False)
    assert "let in" not in said
    assert "authenticat" in said.lower()


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)])
def test_the_published_job_server_refuses_without_the_token(cluster, token, status):
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    for method, data in (("GET", None), ("POST", b'{"entrypoint": "true"}')):
        request = urllib.request.Request(f"{cluster.jobs}/api/jobs/", data, headers, method=method)
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=30)
        assert refusal.value.code == status


def test_only_this_machine_reaches_it_and_no_secret_shows(cluster):
    names = cluster.compose("ps", "-q").split()
    inspected = json.loads(subprocess.check_output(["docker", "inspect", *names]))
    published = {
        (container["Config"]["Labels"]["com.docker.compose.service"], binding["HostIp"])
        for container in inspected
        for bindings in container["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {("mlflow", "127.0.0.1"), (HEAD, "127.0.0.1")}
    shown = json.dumps(inspected) + "".join(
        subprocess.check_output(["docker", "top", name], text=True) for name in names
    )
    files = list(cluster.secrets.iterdir())
    assert len(files) == 4
    assert len({file.read_text() for file in files}) == 4
    for file in files:
        assert len(file.read_text()) == 64
        assert file.read_text() not in shown
    assert cluster.secrets.stat().st_mode & 0o077 == 0
    with pytest.raises(urllib.error.HTTPError) as refusal:
        cluster.get("mlflow/experiments/get?experiment_id=0", Host="elsewhere.example")
    assert refusal.value.code == 403


@dataclass(frozen=True)
class UnderWay:
    """A trial of the cluster's, by its journal: on which hosts it was started, and how far it came."""

    hosts: list[str]
    epochs: int
    ended: bool


def journals(cluster: Cluster, study: str) -> list[UnderWay]:
    read = f"for file in /runs/{study}/trials/*; do echo; cut -c 1-2000 $file; done"
    texts = cluster.shell(HEAD, "sh", "-c", read, check=False).split("\n\n")
    return [
        UnderWay(
            hosts=re.findall(r'"host":"([^"]*)"', text),
            epochs=text.count('"event":"epoch"'),
            ended='"event":"end"' in text,
        )
        for text in texts
        if '"event":"start"' in text
    ]


def job_status(cluster: Cluster, job: str) -> str:
    token = (cluster.secrets / "ray_token").read_text()
    request = urllib.request.Request(
        f"{cluster.jobs}/api/jobs/{job}", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        status: str = json.load(answer)["status"]
    return status


def kill_driver(cluster: Cluster, study: str) -> None:
    """Kill the process that runs a study file in the head's container."""
    kill = (
        "import os, psutil\n"
        "for process in psutil.process_iter(['cmdline']):\n"
        "    words = process.info['cmdline'] or []\n"
        f"    if {study!r} in words and 'run' in words:\n"
        "        process.kill(); print('killed')\n"
    )
    assert "killed" in cluster.shell(HEAD, "python", "-c", kill)


def test_a_worker_that_joins_is_used_and_kills_cost_nothing(cluster, tmp_path, monkeypatch):
    """A worker is killed, then the driver, which runs again; no worker sees the folder of runs."""
    cluster.submit("paced.yaml", "--no-wait", "--submission-id", "paced")
    wait_for(lambda: len([each for each in journals(cluster, "paced") if each.epochs]) >= 2)
    elsewhere = ["status", "paced", "--runs", str(tmp_path / "none"), "--tracking-uri", cluster.mlflow]
    said = subprocess.check_output([sys.executable, "-m", "study", *elsewhere], text=True)
    assert re.search(r"/6 trials done, [1-6] running", said), said

    before = set(cluster.containers(WORKER))
    cluster.up(WORKERS="3")
    (joined,) = set(cluster.containers(WORKER)) - before
    wait_for(
        lambda: any(joined.startswith(host) for each in journals(cluster, "paced") for host in each.hosts)
    )

    def in_the_middle() -> str | None:
        """A worker of the first two that is not near the end of what it does."""
        hosts = [
            each.hosts[-1] for each in journals(cluster, "paced") if not each.ended and each.epochs < 120
        ]
        return next((name for name in before for host in hosts if name.startswith(host)), None)

    killed = wait_for(in_the_middle)
    subprocess.run(["docker", "kill", "--signal", "KILL", killed], check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: any(len(each.hosts) > 1 for each in journals(cluster, "paced")))
    kill_driver(cluster, "paced.yaml")
    wait_for(lambda: job_status(cluster, "paced") == "FAILED")
    assert not all(each.ended for each in journals(cluster, "paced")), "nothing was left to resume"
    said = cluster.submit("paced.yaml")
    assert "6/6 trials done" in said
    assert any(len(each.hosts) > 1 for each in journals(cluster, "paced")), "nothing was disturbed"
    monkeypatch.setenv("PAUSE", "0")
    monkeypatch.syspath_prepend(cluster.studies)
    assert_whole(cluster, load_study(cluster.studies / "paced.yaml"), tmp_path)


def test_a_mistake_of_the_user_is_what_the_job_says_and_the_rest_trains(cluster):
    (cluster.studies / "wrong.py").write_text(WRONG_MODULE)
    cluster.write(WRONG)
    # Without the try before the start, so that the workers meet the mistakes.
    said = cluster.submit("wrong.yaml", extra=("--no-preflight",), check=False)
    assert re.search(r"8 trials failed.*mat1 and mat2 shapes cannot be multiplied", said), said
    assert re.search(r"8 trials failed.*(out of bounds|out of range)", said), said
    outcomes = {}
    for run in cluster.runs("wrong"):
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        outcomes.setdefault(tags["workload"], []).append(run["info"]["status"])
    assert outcomes == {
        "wrong:width": ["FAILED"] * 8,
        "wrong:labels": ["FAILED"] * 8,
        "wrong:double": ["FINISHED"] * 8,
        "digits-logreg": ["FINISHED"] * 8,
    }
    status = cluster.shell(HEAD, "hypergrad-study", "status", "wrong", check=False)
    assert "mat1 and mat2 shapes cannot be multiplied" in status


def test_down_and_up_again_keeps_everything(cluster, tmp_path):
    before = {run["info"]["run_id"]: run for run in cluster.runs("quickstart")}
    cluster.down()
    assert not cluster.compose("ps", "-q").split()
    cluster.up(WORKERS="2")
    assert {run["info"]["run_id"]: run for run in cluster.runs("quickstart")} == before
    assert "324/324 trials done" in cluster.submit("quickstart")
    assert {run["info"]["run_id"]: run for run in cluster.runs("quickstart")} == before
    assert_drawn(cluster, "quickstart", tmp_path)


def test_mlflow_behind_a_password(cluster):
    cluster.up(MLFLOW_BASIC_AUTH="true")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        cluster.runs("quickstart")
    assert refusal.value.code == 401
    assert "1/1 trials done" in cluster.submit("closed.yaml")
    cluster.user = ("admin", (cluster.secrets / "mlflow_admin_password").read_text())
    assert [run["info"]["status"] for run in cluster.runs("closed")] == ["FINISHED"]
    assert len(cluster.runs("quickstart")) == 324
