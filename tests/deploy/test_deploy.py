"""The script for ``ray submit``, and what can be known of deploy/ without a cluster."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from study.storage.study_folder import StudyFolder

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
CLUSTERS = ("onprem", "aws", "gcp")
KUBERAY = ("rayjob", "mlflow")


@pytest.fixture
def home(tmp_path):
    """A home folder with nothing but the script in it, as on a head."""
    shutil.copy(REPOSITORY / "study" / "study.py", tmp_path)
    return tmp_path


def submitted(home: Path, *words: str, python=(sys.executable,), **environment: str):
    return subprocess.run(
        [*python, "study.py", *words],
        cwd=home,
        env=os.environ | {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_script_alone_finds_the_package_and_not_itself(home):
    listed = submitted(home, "presets", PYTHONPATH=str(home))
    assert listed.returncode == 0, listed.stderr
    assert "quickstart" in listed.stdout


def test_without_the_package_it_says_so_in_one_line(home):
    refused = submitted(home, "presets", python=(sys.executable, "-S"))
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "hypergrad-study is not installed" in refused.stderr


@pytest.mark.ray
def test_a_run_trains_with_the_package_on_the_workers(home, write_study):
    _, file = write_study(workloads=["elsewhere:noting"], seeds=1, epochs=1)
    runs = home / "shared" / "runs"
    runs.mkdir(parents=True)
    shutil.copy(file, home / "my.yaml")
    (runs / "elsewhere.py").write_text(
        "import sys, study\nfrom pathlib import Path\nfrom study.workloads.registry import resolve\n"
        "def noting():\n"
        "    Path(__file__).with_name('note').write_text('\\n'.join([study.__file__, *sys.path]))\n"
        "    return resolve('digits-logreg', {})\n"
    )
    ran = submitted(home, "run", "my.yaml", "--address", "local", HYPERGRAD_STUDY_RUNS=str(runs))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    study, _ = write_study(workloads=["elsewhere:noting"], seeds=1, epochs=1)
    assert all(record.is_complete for record in StudyFolder(runs, study.name).records(study.trials()))
    imported, *path = (runs / "note").read_text().split("\n")
    assert Path(imported).name == "__init__.py"
    assert str(home) not in path


def test_run_uses_the_cluster_it_was_submitted_to(home):
    script = "import study.study as s, sys; print(*s.arguments(sys.argv[1:]))"

    def arguments(*words: str) -> list[str]:
        command = [sys.executable, "-P", "-c", script, *words]  # -P: the copy beside it is not imported
        return subprocess.check_output(command, cwd=home, text=True).split()

    (home / "mine.yaml").touch()
    assert arguments("run", "quickstart") == ["run", "quickstart", "--address", "auto"]
    assert arguments("run", "quickstart", "--address=10.0.0.1:6379")[2:] == ["--address=10.0.0.1:6379"]
    assert arguments("status", "quickstart") == ["status", "quickstart"]
    assert arguments("plan", "mine.yaml") == ["plan", str(home / "mine.yaml")]


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_the_cluster_file(name):
    content = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(content, schema)
    validate_config(prepare_config(content))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_closed_and_what_it_copies_is_there(name):
    content = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text())
    head = " ".join(content["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    mounts = content["file_mounts"]
    assert mounts["~/hypergrad-study/token"] == "~/.ray/auth_token"
    # With containers Ray leaves out the script when a mount's path is the beginning of the script's.
    assert not any("~/study.py".startswith(remote) for remote in mounts)
    for local in mounts.values():
        assert local.startswith("~/.ray/") or (REPOSITORY / local).exists()
    environment = (DEPLOY / "environment.sh").read_text()
    sourced = subprocess.check_output(
        ["bash", "-c", f"{environment}\nenv"], env={"HOME": "/home/me", "PATH": "/bin"}, text=True
    ).splitlines()
    assert "RAY_AUTH_MODE=token" in sourced
    assert "RAY_AUTH_TOKEN_PATH=/home/me/hypergrad-study/token" in sourced


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_in_clouds_gpus_come_from_nothing_and_the_head_trains_nothing(name):
    content = prepare_config(yaml.safe_load((DEPLOY / f"{name}.yaml").read_text()))
    kinds = content["available_node_types"]
    head = kinds.pop(content["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0" in " ".join(content["head_start_ray_commands"])
    (worker,) = kinds.values()
    assert worker["resources"]["GPU"] > 0
    assert (worker["min_workers"], worker["max_workers"]) == (0, content["max_workers"])
    assert "spot" in json.dumps(worker["node_config"]).lower()


@pytest.mark.parametrize("name", [*CLUSTERS, "kuberay/rayjob", "kuberay/mlflow"])
def test_what_must_be_filled_in_is_said(name):
    assert "FILL IN" in (DEPLOY / f"{name}.yaml").read_text()


@pytest.fixture(scope="module")
def manifests():
    texts = [(DEPLOY / "kuberay" / f"{name}.yaml").read_text() for name in KUBERAY]
    return texts, [document for text in texts for document in yaml.safe_load_all(text)]


def found(value, key: str):
    """Every value that stands under ``key``, however deep."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for part in value.values():
            yield from found(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from found(part, key)


def test_secrets_are_referred_to_and_made_by_the_commands_in_the_files(manifests):
    texts, documents = manifests
    assert "Secret" not in {document["kind"] for document in documents}
    told = "\n".join(texts)
    for reference in found(documents, "secretKeyRef"):
        assert f"kubectl create secret generic {reference['name']}" in told
        assert f"--from-literal={reference['key']}=" in told
    for variable in (item for items in found(documents, "env") for item in items):
        if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "TOKEN", "STORE_URI")):
            assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_what_the_manifests_name_exists(manifests):
    _, documents = manifests
    named = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for claim in found(documents, "persistentVolumeClaim"):
        assert ("PersistentVolumeClaim", claim["claimName"]) in named
    for settings in found(documents, "configMap"):
        assert ("ConfigMap", settings["name"]) in named
    pods = [pod for pod in found(documents, "template") if "spec" in pod]
    for service in (document for document in documents if document["kind"] == "Service"):
        (pod,) = [p for p in pods if p.get("metadata", {}).get("labels") == service["spec"]["selector"]]
        ports = {port["name"] for c in pod["spec"]["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])} | {"data"}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_the_job_is_tried_once_with_the_ray_that_is_pinned(manifests):
    (job,) = [document for document in manifests[1] if document["kind"] == "RayJob"]
    spec = job["spec"]
    assert spec["backoffLimit"] == spec["submitterConfig"]["backoffLimit"] == 0
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "hypergrad-ray-token"}
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert f"ray=={spec['rayClusterSpec']['rayVersion']}" in pins
    (tracking,) = {
        variable["value"]
        for items in found(job, "env")
        for variable in items
        if variable["name"] == "MLFLOW_TRACKING_URI"
    }
    (allowed,) = [
        argument.partition("=")[2].split(",")
        for arguments in found(manifests[1], "args")
        for argument in arguments
        if argument.startswith("--allowed-hosts")
    ]
    assert tracking.removeprefix("http://") in allowed
