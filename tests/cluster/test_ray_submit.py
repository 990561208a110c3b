"""``ray up``, ``submit``, ``job submit`` and ``down`` with deploy/onprem.yaml, over real SSH.

Three machines in one: each is a set of Linux namespaces (processes, network, mounts) with an sshd in it, so
it has processes, an address, a /tmp and a home folder of its own. That also makes it safe to test what runs
``ray stop``, which ends every Ray process it sees.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

REPOSITORY = Path(__file__).resolve().parents[2]
UNSHARE = ["unshare", "--pid", "--net", "--mount", "--fork", "--kill-child", "--mount-proc"]
ENTER = ["nsenter", "--pid", "--net", "--mount"]
LAPTOP, HEAD, WORKER = "10.77.0.1", "10.77.0.2", "10.77.0.3"
USER = "hypergrad"
RAY = [sys.executable, "-P", "-m", "ray.scripts.scripts"]

MACHINE = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/home
mount --bind {root}/home /mnt/home
mount --bind {root}/passwd /etc/passwd
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mkdir /run/sshd
ip link set lo up
exec {command}
"""

SSHD = """
HostKey /mnt/home/.ssh/host_key
AuthorizedKeysFile /mnt/home/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
PidFile none
Subsystem sftp internal-sftp
"""

WHEREABOUTS = '''
import socket, time
from pathlib import Path
import ray, study
from study.workloads.registry import resolve
from dataclasses import replace

def noting():
    """digits-logreg that notes on which node it was trained, and by which copy of the package."""
    workload = resolve("digits-logreg", {})
    def build():
        time.sleep(2)  # long enough for both nodes to get some
        node = ray.util.get_node_ip_address()
        (Path.home() / f"at-{node}").write_text(study.__file__)
        return workload.build()
    return replace(workload, name="noting", build=build)
'''

SMALL = {
    "name": "small",
    "workloads": ["whereabouts:noting"],
    "optimizers": ["sgd", "adam-adam"],
    "alpha0": [0.01],
    "beta": {"adam": 1e-5},
    "seeds": 4,
    "epochs": 1,
}

CONNECT = "import ray; ray.init('auto', log_to_driver=False); print('nodes', len(ray.nodes()))"


@dataclass(frozen=True)
class Machine:
    process: subprocess.Popen[bytes]
    home: Path

    @property
    def init(self) -> int:
        """The process that is the machine's first, as seen from here; it starts in a moment."""
        pid = self.process.pid
        deadline = time.monotonic() + 10
        while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            assert time.monotonic() < deadline, "a machine did not start"
            time.sleep(0.1)
        return int(children[0])

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        inherited = {"PATH": os.environ["PATH"], "HOME": "/mnt/home", "USER": USER}
        return subprocess.Popen(
            [*ENTER, f"--wd={REPOSITORY}", f"--target={self.init}", *command],
            env=inherited | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, **environment)
        output, _ = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, output)

    def shell(self, command: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a command as Ray runs it on a node: in a login shell that reads ~/.bashrc."""
        return self.run("bash", "--login", "-i", "-c", f". ~/.bashrc; cd ~; {command}", **environment)

    def processes(self) -> list[str]:
        listed = self.run("ps", "-e", "-o", "args=").stdout.splitlines()
        return [line for line in listed if not line.startswith("ps -e")]


def missing() -> str | None:
    """Why this machine cannot hold the others, or None."""
    tools = ["sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "nsenter"]
    lacking = [name for name in tools if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    if lacking:
        return f"not installed: {', '.join(lacking)}"
    if not all(map(importlib.util.find_spec, ("aiohttp_cors", "psycopg2"))):
        return "not installed: pip install '.[cluster]'"
    if os.geteuid() != 0:
        return "namespaces with an sshd need root"
    if Path(sys.prefix).is_relative_to("/tmp"):
        return f"{sys.prefix} lies under /tmp, of which each machine has one of its own"
    needed = "mount -t tmpfs tmpfs /mnt; ip link add name t0 type bridge; ip link add name t1 type veth"
    tried = subprocess.run([*UNSHARE, "sh", "-ec", needed], capture_output=True, text=True)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A laptop, a head and a worker on one network, which share no folder."""
    if reason := missing():
        pytest.skip(reason)
    base = tmp_path_factory.mktemp("machines")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "key"], check=True)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    started: dict[str, Machine] = {}
    try:
        for address in (LAPTOP, HEAD, WORKER):
            command = "sleep infinity" if address == LAPTOP else f"{sshd} -D -f /mnt/home/.ssh/sshd_config"
            root = furnish(base / address, base / "key")
            script = MACHINE.format(root=root, command=command)
            process = subprocess.Popen([*UNSHARE, "bash", "-c", script], stdin=subprocess.DEVNULL)
            started[address] = Machine(process, root / "home")
        connect(started)
        yield started
    finally:
        for machine in started.values():
            machine.process.kill()
            machine.process.wait()


def furnish(root: Path, key: Path) -> Path:
    """Make a home folder with keys, and packages found as if they had been downloaded."""
    ssh = root / "home" / ".ssh"
    ssh.mkdir(parents=True)
    account = f"{USER}:x:0:0::/mnt/home:/bin/bash\n"
    (root / "passwd").write_text(account + Path("/etc/passwd").read_text())
    (ssh / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    shutil.copy(key, ssh / USER)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ssh / "host_key"], check=True)
    (ssh / "sshd_config").write_text(SSHD)
    (root / "home" / ".bashrc").write_text(
        f"export PATH={sys.base_prefix}/bin:$PATH PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0\n"
        # The setuptools that comes with a new environment may be too old to build with.
        "rm -rf ~/hypergrad-study/venv/lib/python*/site-packages/setuptools*\n"
    )
    ours = Path(sysconfig.get_path("purelib", vars={"base": "hypergrad-study/venv"}))
    packages = root / "home" / ours
    packages.mkdir(parents=True)
    known = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "installed.pth").write_text("\n".join(known) + "\n")
    program = packages.parents[2] / "bin" / "ray"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec "$(dirname "$0")/python" -P -m ray.scripts.scripts "$@"\n')
    program.chmod(0o755)
    return root


def connect(machines: dict[str, Machine]) -> None:
    """Put the machines on one network; the laptop is its switch."""

    def ip(machine: Machine, command: str) -> None:
        inside = ["nsenter", "--net", f"--target={machine.init}", "ip", *command.split()]
        subprocess.run(inside, check=True)

    laptop = machines[LAPTOP]
    deadline = time.monotonic() + 10
    while any("bash" in "".join(m.processes()[:1]) for m in machines.values()):
        assert time.monotonic() < deadline, "a machine did not start"
        time.sleep(0.1)
    ip(laptop, "link add switch type bridge")
    ip(laptop, f"addr add {LAPTOP}/24 dev switch")
    ip(laptop, "link set switch up")
    for number, address in enumerate((HEAD, WORKER)):
        machine = machines[address]
        ip(laptop, f"link add port{number} type veth peer name eth0 netns {machine.init}")
        ip(laptop, f"link set port{number} master switch up")
        ip(machine, f"addr add {address}/24 dev eth0")
        ip(machine, "link set eth0 up")
        ip(machine, f"route add default via {LAPTOP}")


def filled_in(home: Path) -> Path:
    """Fill in what deploy/onprem.yaml asks for, and nothing else."""
    content = yaml.safe_load((REPOSITORY / "deploy" / "onprem.yaml").read_text())
    content["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    content["auth"] = {"ssh_user": USER, "ssh_private_key": f"~/.ssh/{USER}"}
    (home / "onprem.yaml").write_text(yaml.safe_dump(content))
    return Path("/mnt/home/onprem.yaml")


@pytest.fixture(scope="module")
def cluster(machines):
    """The machines, after ``ray up``; a function that runs a ray command on the laptop."""
    started = machines
    laptop = started[LAPTOP]
    file = filled_in(laptop.home)

    def ray(*words: str) -> subprocess.CompletedProcess[str]:
        return laptop.run(*RAY, *words, AUTOSCALER_NODE_START_WAIT_S="60", RAY_AUTH_MODE="token")

    token = ray("get-auth-token", "--generate")
    assert token.returncode == 0, token.stdout
    up = ray("up", "--yes", str(file))
    assert up.returncode == 0, up.stdout
    return started, ray, file


def nodes(machine: Machine, **environment: str) -> str:
    return machine.shell(f'python -c "{CONNECT}"', **environment).stdout


def wait_until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(2)
    return True


def test_up_starts_the_head_and_it_the_worker(cluster):
    started, *_ = cluster
    assert wait_until(lambda: "nodes 2" in nodes(started[HEAD]), 240), (
        started[HEAD].shell("tail -n 50 /tmp/ray/session_latest/logs/monitor*").stdout
    )


def test_submit_runs_the_installed_package_on_every_node(cluster):
    started, ray, file = cluster
    runs = started[HEAD].home / "hypergrad-study" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "whereabouts.py").write_text(textwrap.dedent(WHEREABOUTS))
    (runs / "small.yaml").write_text(yaml.safe_dump(SMALL))
    where = "/mnt/home/hypergrad-study/runs/small.yaml"
    submitted = ray("submit", str(file), "study/study.py", "--", "run", where)
    assert "8/8 trials done" in submitted.stdout, submitted.stdout
    study = load_study(runs / "small.yaml")
    assert all(record.is_complete for record in StudyFolder(runs, "small").records(study.trials()))
    installed = "/mnt/home/hypergrad-study/venv/"
    for node in (HEAD, WORKER):
        assert (started[node].home / f"at-{node}").read_text().startswith(installed)
    assert not (started[WORKER].home / "hypergrad-study" / "runs").exists()
    assert "1 of 2 nodes do not see /mnt/home/hypergrad-study/runs/small" in submitted.stdout
    assert "8/8 trials done" in ray("submit", str(file), "study/study.py", "--", "status", "small").stdout


def test_a_job_brings_its_study_and_its_code_with_it(cluster, tmp_path):
    started, ray, file = cluster
    laptop = started[LAPTOP]
    studies = laptop.home / "studies"
    studies.mkdir()
    (studies / "mine.py").write_text(
        "from study.workloads.registry import resolve\ndef own(): return resolve('digits-logreg', {})\n"
    )
    (studies / "own.yaml").write_text(yaml.safe_dump(SMALL | {"name": "own", "workloads": ["mine:own"]}))
    forwarding = laptop.start(*RAY, "dashboard", str(file))
    try:
        probe = "import socket; socket.create_connection(('127.0.0.1', 8265), 5)"
        assert wait_until(lambda: laptop.run(sys.executable, "-c", probe).returncode == 0, 30)
        address = ["--address", "http://127.0.0.1:8265", "--working-dir", "/mnt/home/studies"]
        entrypoint = ["hypergrad-study", "run", "own.yaml", "--address", "auto"]
        submitted = ray("job", "submit", *address, "--", *entrypoint)
    finally:
        forwarding.terminate()
    assert submitted.returncode == 0, submitted.stdout
    assert "8/8 trials done" in submitted.stdout, submitted.stdout
    runs = started[HEAD].home / "hypergrad-study" / "runs"
    assert (runs / "own" / "report" / "index.html").is_file()


def test_without_the_token_nothing_is_let_in(cluster):
    head, laptop = cluster[0][HEAD], cluster[0][LAPTOP]
    stranger = "env -u RAY_AUTH_TOKEN_PATH -u RAY_AUTH_MODE HOME=/tmp"
    job = "ray job submit --address http://127.0.0.1:8265 -- true"
    for attempt in (
        f"{stranger} ray status --address {HEAD}:6379",
        f"{stranger} {job}",
        f'{stranger} RAY_ADDRESS={HEAD}:6379 timeout 60 python -c "{CONNECT}"',
    ):
        refused = head.shell(attempt)
        assert refused.returncode != 0, attempt + refused.stdout
        assert "uthenticat" in refused.stdout, attempt + refused.stdout
    assert head.shell("ray status").returncode == 0
    assert head.shell(job).returncode == 0
    # From another machine the dashboard and its job server cannot even be asked.
    asked = laptop.run(sys.executable, "-c", f"import socket; socket.create_connection(('{HEAD}', 8265), 5)")
    assert "Connection refused" in asked.stdout


def test_down_leaves_nothing_running(cluster):
    started, ray, file = cluster
    down = ray("down", "--yes", str(file))
    assert down.returncode == 0, down.stdout

    def running(address: str) -> list[str]:
        return [line for line in started[address].processes() if "ray" in line]

    assert running(HEAD) == []
    # Ray does not stop the workers of such a cluster; they end when they notice that the head is gone.
    assert wait_until(lambda: running(WORKER) == [], 180), running(WORKER)
