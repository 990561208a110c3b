"""Starts a Ray of our own, or joins one that runs at an address.

Starting one takes seconds, so it happens in the background.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.config import plugins
from study.config.loader import Resources
from study.config.messages import first_line
from study.execution.executor import ExecutorError
from study.execution.ray_backend import token
from study.training.process_limits import cpu_count

STARTS = 3
"""Attempts to start a local Ray. Ray gives each 30 s, which a busy machine may exceed."""
GUESSED_SLOTS = 16

# Variables that the processes of a Ray of our own inherit. For a runtime environment Ray would start new
# processes, and leave its idle ones unused. Ray adds the current folder to their path by itself.
_ENVIRONMENT = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
_PRESTARTED = {
    "RAY_prestart_worker_first_driver": "1",
    "RAY_preload_python_modules": "study.execution.ray_backend.trials",
    # Keep idle workers until the first trial is asked for.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_NOT_PRESTARTED = {"RAY_prestart_worker_first_driver": "0"}


@dataclass(frozen=True)
class Cluster:
    """The resources of a running Ray.

    Args:
        cpus: Logical CPUs of all nodes.
        gpus: Logical GPUs of all nodes.
        grows: Whether an autoscaler may add nodes when more is asked for; such a cluster may start empty.
    """

    cpus: float
    gpus: float
    grows: bool = False

    def slots(self, resources: Resources) -> int:
        """Return how many workers run at a time; a guess if a cluster has yet to grow.

        Args:
            resources: The resources that one worker takes.

        Raises:
            ExecutorError: The cluster has no room for one worker and does not grow.
        """
        fits = [
            int(have / need + 1e-9)
            for have, need in ((self.cpus, resources.cpus), (self.gpus, resources.gpus))
            if need > 0
        ]
        if slots := min(fits):
            return slots
        if self.grows:
            return GUESSED_SLOTS
        raise ExecutorError(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, but Ray has "
            f"{self.cpus:g} CPUs and {self.gpus:g} GPUs in all; lower `resources` in the study file"
        )


class Connection:
    """A Ray that starts in the background, once ``start`` is called.

    Args:
        address: Address of a running cluster, as for ``ray.init``. Default: start a Ray of our own here.
        cpus: Logical CPUs of a Ray of our own. Default: all that this process may use.
        gpus: Logical GPUs of a Ray of our own. Default: those that Ray finds.
        prestart: Whether a Ray of our own starts a process per CPU at once, with the worker's imports done.
        modules: The user's Python files and package folders, to send to the nodes of a running cluster.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        *,
        prestart: bool = False,
        modules: Sequence[Path] = (),
    ) -> None:
        self._address, self._cpus, self._gpus, self._prestart = address, cpus, gpus, prestart
        self._modules = modules
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._starting: Future[Cluster] | None = None
        self._mode = os.environ.get(token.MODE)

    @property
    def is_local(self) -> bool:
        """Whether it is a Ray of our own, on this machine."""
        return self._address is None

    @property
    def is_starting(self) -> bool:
        """Whether Ray was started and is not ready yet."""
        return self._starting is not None and not self._starting.done()

    def check(self, resources: Resources) -> None:
        """Raise an error at once if no cluster accepts us at the address, or has no room for one worker.

        Ray itself would try an address again for 20 s to 2 min. Once started, ``wait`` raises the errors.

        Args:
            resources: The resources that one worker takes.

        Raises:
            ExecutorError: Nothing answers, or no Ray, or the token is missing or wrong; or a worker takes
                more than a Ray of our own will have.
        """
        if self._address is None:
            self._check_fits(resources)
        elif self._starting is None and (place := _host_and_port(self._address)):
            # Not while Ray joins in its thread: the check changes whether this process sends a token.
            _check_answers(self._address, *place)
            token.check(self._address)

    def _check_fits(self, resources: Resources) -> None:
        wants = (("CPUs", resources.cpus, self._cpus or cpu_count()), ("GPUs", resources.gpus, self._gpus))
        for what, wanted, there in wants:
            if there is not None and wanted > there:
                raise ExecutorError(
                    f"a trial asks for {wanted:g} {what}, but there are {there}; "
                    "lower `resources` in the study file"
                )

    def start(self) -> None:
        """Start or join Ray in a background thread. A second call does nothing."""
        if self._starting is None:
            start = (
                (_join, self._address, self._modules)
                if self._address
                else (_start, self._cpus, self._gpus, self._prestart)
            )
            self._starting = self._thread.submit(*start)

    def wait(self) -> Cluster:
        """Start Ray, wait until it is ready, and return its resources.

        Raises:
            ExecutorError: No Ray answers at the address, or one with other versions; or none starts here.
        """
        self.start()
        assert self._starting is not None
        return self._starting.result()

    def shutdown(self) -> None:
        """Leave the cluster, and stop a Ray of our own. The connection cannot be used again."""
        if self._starting is not None:
            with suppress(Exception):  # wait() has raised it already
                self._starting.result()
            self._starting = None
            _disconnect()
            # Ray sets the mode when it starts here, and would then refuse a cluster that uses no token.
            token.set_mode(self._mode)
        self._thread.shutdown()


def _disconnect() -> None:
    # Ray aborts the process if another thread calls it during its shutdown, and garbage collection in such a
    # thread can do that, if it frees Ray's objects.
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()


def _start(cpus: int | None, gpus: int | None, prestart: bool) -> Cluster:
    for starts_left in reversed(range(STARTS)):
        try:
            with _environment(_ENVIRONMENT | (_PRESTARTED if prestart else _NOT_PRESTARTED)):
                _init(
                    address="local",
                    num_cpus=cpus or cpu_count(),
                    num_gpus=gpus,
                    include_dashboard=False,
                )
            break
        except Exception as error:  # Ray raises nothing narrower if a node does not start in time
            ray.shutdown()
            if not (starts_left and "timed out" in str(error)):
                raise ExecutorError(f"a local Ray did not start: {first_line(error)}") from error
    return _offered(grows=False)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start within the context, and unset them after it."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def _join(address: str, modules: Sequence[Path]) -> Cluster:
    # Workers import a user's own workload from the folders that this process uses, or from the modules sent.
    paths = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        plugins.VARIABLE: os.environ.get(plugins.VARIABLE, ""),
    }
    sent = {"py_modules": list(map(str, modules))} if modules else {}
    try:
        _init(address=address, runtime_env={"env_vars": environment} | sent)
    except Exception as error:
        raise ExecutorError(f"no Ray cluster answers at {address}: {first_line(error)}") from error
    _check_versions()
    return _offered(grows=True)


def _init(**options: Any) -> None:
    # The filter stays: filters belong to the process, and other threads are at work.
    warnings.filterwarnings("ignore", module=r"ray\.")
    ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)


def _offered(*, grows: bool) -> Cluster:
    total = ray.cluster_resources()
    return Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), grows)


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Return host and port of ``host:port``; None for ``auto`` and addresses of Ray Client (``ray://``)."""
    host, separator, port = address.rpartition(":")
    if "/" in address or not (separator and port.isdigit()):
        return None
    return host.strip("[]"), int(port)


def _check_answers(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ExecutorError(f"no Ray cluster answers at {address} ({error})") from error


def _versions() -> dict[str, str]:
    """Return the versions that every node must share, so that a trial means the same everywhere."""
    packages = ("hypergrad-study", "torch", "numpy", "ray")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def _check_versions() -> None:
    """Compare the versions of every node that is up with this process's. Later nodes are not checked.

    Raises:
        ExecutorError: A node has other versions, or lacks the package.
    """
    here = _versions()
    ask = ray.remote(num_cpus=0)(_versions)
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        name = node["NodeManagerHostname"]
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        try:
            there = ray.get(ask.options(scheduling_strategy=on_node).remote(), timeout=120)
        except ray.exceptions.GetTimeoutError as error:
            raise ExecutorError(f"node {name} did not start a task within 120 s") from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ExecutorError(f"node {name} cannot run this study: {reason}") from error
        for package, version in here.items():
            if there[package] != version:
                raise ExecutorError(
                    f"node {name} has {package} {there[package]}, this process has {version}; "
                    "install the same on both"
                )
