"""The Ray that a study runs on: one of its own, or one at an address. Imports ``ray`` and nothing heavier.

To start one takes seconds in which this process would wait, so that it is done beside other work.
"""

from __future__ import annotations

import gc
import logging
import os
import platform
import socket
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any, Self

# Read when ray is imported: no CSV, JSON and TensorBoard writers, the interrupt left to the command
# line, no chatter about errors that the journals hold.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A process that does not hear from its node in this time ends without a word.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.config import plugins
from study.config.loader import Resources
from study.config.messages import first_line

STARTS = 3
"""How often a local Ray is started that is not up in the 30 s that Ray gives it, as on a busy machine."""
GUESSED_SLOTS = 16

# What the processes of a Ray of our own inherit. In place of a runtime environment, for which Ray would not
# use those that it has started already; it adds the current folder to their path by itself.
_OF_ITS_PROCESSES = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
_READY = {
    "RAY_prestart_worker_first_driver": "1",
    "RAY_preload_python_modules": "study.execution.tune_trials",
    # Not before they are asked for anything.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
}
_NOT_READY = {"RAY_prestart_worker_first_driver": "0"}


class ClusterError(RuntimeError):
    """Ray cannot be started or reached, or cannot hold a trial of the study."""


class LostClusterError(ClusterError):
    """Ray went away in the middle of a study; what the trials did so far is kept."""


@dataclass(frozen=True)
class Cluster:
    """What a running Ray offers."""

    cpus: float
    gpus: float
    grows: bool = False
    """Whether it may have more when more is asked for, as an autoscaling cluster that starts from zero."""

    def slots(self, resources: Resources) -> int:
        """Return how many trials with ``resources`` run at a time; a guess where a cluster has yet to grow.

        Raises:
            ClusterError: not even one, and it does not grow.
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
        raise ClusterError(
            f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs, but Ray has "
            f"{self.cpus:g} CPUs and {self.gpus:g} GPUs in all; lower `resources` in the study file"
        )


class Connection:
    """A Ray that comes up in the background, from :meth:`start` on, and is left when the context ends.

    Args:
        address: of a running cluster, as in ``ray.init``; None starts one here, which ends with the context.
        cpus: logical CPUs of a Ray of our own; None for all that this process may use.
        gpus: logical GPUs of a Ray of our own; None for those found.
        ready: of a Ray of our own, start a process per CPU at once, which imports what a worker needs.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: int | None = None,
        gpus: int | None = None,
        *,
        ready: bool = False,
    ) -> None:
        self._address, self._cpus, self._gpus, self._ready = address, cpus, gpus, ready
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray")
        self._coming: Future[Cluster] | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a Ray of our own, here."""
        return self._address is None

    @property
    def is_starting(self) -> bool:
        """Whether it has been begun and is not up yet."""
        return self._coming is not None and not self._coming.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.shutdown()

    def start(self) -> None:
        """Start or connect to it, in a thread of its own; once, however often this is called."""
        if self._coming is None:
            start = (_join, self._address) if self._address else (_start, self._cpus, self._gpus, self._ready)
            self._coming = self._thread.submit(*start)

    def wait(self) -> Cluster:
        """Return what it offers, when it is up.

        Raises:
            ClusterError: no Ray at the address, or with other versions; or one of our own does not start.
        """
        self.start()
        assert self._coming is not None
        return self._coming.result()

    def shutdown(self) -> None:
        """Leave it, and stop a Ray of our own; it cannot be had again."""
        if self._coming is None:
            return
        with suppress(Exception):  # of the start, told where it was waited for
            self._coming.result()
        # Ray ends the process if another thread reaches into it now, as one does that collects its garbage.
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            if collecting:
                gc.enable()


def _start(cpus: int | None, gpus: int | None, ready: bool) -> Cluster:
    for starts_left in reversed(range(STARTS)):
        try:
            with _environment(_OF_ITS_PROCESSES | (_READY if ready else _NOT_READY)):
                _init(
                    address="local",
                    num_cpus=cpus or len(os.sched_getaffinity(0)),
                    num_gpus=gpus,
                    include_dashboard=False,
                )
            break
        except Exception as error:  # Ray raises no narrower one where a node does not start in time.
            ray.shutdown()
            if not (starts_left and "timed out" in str(error)):
                raise ClusterError(f"a local Ray did not start: {first_line(error)}") from error
    return _offered(grows=False)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set ``variables`` for processes that are started within; afterwards they are unset."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)


def _join(address: str) -> Cluster:
    _check_answers(address)
    # A user's own workload is imported on the workers as it is here.
    paths = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        plugins.VARIABLE: os.environ.get(plugins.VARIABLE, ""),
    }
    try:
        _init(address=address, runtime_env={"env_vars": environment})
    except Exception as error:
        raise ClusterError(f"no Ray cluster answers at {address}: {first_line(error)}") from error
    _check_versions()
    return _offered(grows=True)


def _init(**options: Any) -> None:
    # For good: a filter for a while is not one thread's alone.
    warnings.filterwarnings("ignore", module=r"ray\.")
    ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)


def _offered(*, grows: bool) -> Cluster:
    total = ray.cluster_resources()
    return Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), grows)


def _check_answers(address: str) -> None:
    """Ray waits for minutes for a cluster that is not there; a person should not."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} ({error})") from error


def _versions() -> dict[str, str]:
    """What must be the same on every node for a trial to mean the same everywhere."""
    packages = ("hypergrad-study", "torch", "numpy", "ray")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def _check_versions() -> None:
    """Compare every node that is up with this process. Nodes that join later are not looked at.

    Raises:
        ClusterError: a node has other versions, or does not have the package.
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
            raise ClusterError(f"node {name} did not start a task within 120 s") from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ClusterError(f"node {name} cannot run this study: {reason}") from error
        for package, version in here.items():
            if there[package] != version:
                raise ClusterError(
                    f"node {name} has {package} {there[package]}, this process has {version}; "
                    "install the same on both"
                )
