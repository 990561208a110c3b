"""Runs bundles of trials on Ray Tune: the only module that imports ray, beside ``study.tuning``.

One Tune trial hosts one bundle, because a Tune trial costs seconds of process start and imports while
many of ours cost less. Workers leave their results in journals; Tune schedules, places and retries.
"""

from __future__ import annotations

import _thread
import logging
import os
import platform
import signal
import socket
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

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
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study import imports
from study.folder import StudyFolder
from study.spec import Resources, Trial
from study.worker import run_bundle

MAX_DEATHS = 10
"""How often the process of a bundle may die before the bundle is given up."""
STARTS = 3
"""How often a local Ray is started that is not up in the 30 s that Ray gives it, as on a busy machine."""
GUESSED_SLOTS = 16
GONE_SECONDS = 10.0


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


@contextmanager
def cluster(
    address: str | None = None, cpus: int | None = None, gpus: int | None = None
) -> Iterator[Cluster]:
    """Connect to the Ray at ``address``, or start one here and stop it at the end.

    Args:
        address: of a running cluster, as in ``ray.init``; None starts a local Ray.
        cpus: logical CPUs of a local Ray; None for all that this process may use.
        gpus: logical GPUs of a local Ray; None for those found.

    Raises:
        ClusterError: no Ray at ``address``, or with other versions; or a local one does not start.
    """
    options: dict[str, Any] = (
        {"address": address}
        if address
        else {
            "address": "local",
            "num_cpus": cpus or len(os.sched_getaffinity(0)),
            "num_gpus": gpus,
            "include_dashboard": False,
        }
    )
    if address:
        _check_answers(address)
    # A user's own workload is imported on the workers as it is here.
    paths = [os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "RAY_CHDIR_TO_TRIAL_DIR": "0"}
    environment[imports.VARIABLE] = os.environ.get(imports.VARIABLE, "")
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    on_terminate = signal.getsignal(signal.SIGTERM)
    for starts_left in reversed(range(1 if address else STARTS)):
        try:
            _init(options, environment)
            break
        except Exception as error:  # Ray raises no narrower one where a node does not start in time.
            ray.shutdown()
            if starts_left and "timed out" in str(error):
                continue
            where = f"no Ray cluster answers at {address}" if address else "a local Ray did not start"
            raise ClusterError(f"{where}: {_first_line(error)}") from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a stack and ends the process at once.
        signal.signal(signal.SIGTERM, on_terminate)
    try:
        if address:
            _check_versions()
        total = ray.cluster_resources()
        yield Cluster(total.get("CPU", 0.0), total.get("GPU", 0.0), grows=address is not None)
    finally:
        ray.shutdown()


def _init(options: dict[str, Any], environment: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            **options,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": environment},
        )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def schedule(
    bundles: Sequence[Sequence[Trial]],
    folder: StudyFolder,
    resources: Resources,
    *,
    data_folder: Path | None = None,
    retries: int = 0,
    checkpoint_seconds: float = 30.0,
    pack: int | None = 1,
) -> None:
    """Run every bundle on the connected Ray and return when all have ended.

    How each trial ended is in its journal. A bundle whose process or node dies starts again, elsewhere if it
    must, skips the trials it had ended and continues the one it was at from its checkpoint.

    Args:
        bundles: trials that share a process, for each process.
        folder: the study's folder, at the same path on every node.
        resources: of one process, which trains one trial or pack at a time.
        data_folder: where the data sets lie on every node; None for the default.
        retries: how often a trial that raises starts again.
        checkpoint_seconds: between two checkpoints of a trial.
        pack: how many trials train together at most; None for as many as pays and fits.

    Raises:
        LostClusterError: every node is gone.
    """
    host = partial(
        _host,
        bundles=tuple(map(tuple, bundles)),
        folder=folder,
        data_folder=data_folder,
        resources=resources,
        retries=retries,
        checkpoint_seconds=checkpoint_seconds,
        pack=pack,
    )
    tuner = tune.Tuner(
        tune.with_resources(host, needs(resources)),
        param_space={"bundle": tune.grid_search(list(range(len(bundles))))},
        # A process takes bundle after bundle: to start one and load the data takes seconds.
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:12],
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            verbose=0,
        ),
    )
    with _noticing_the_end_of_ray():
        tuner.fit()


@contextmanager
def _noticing_the_end_of_ray() -> Iterator[None]:
    """Tune waits for ever for a Ray of which nothing is left, as when the only node's process was killed.

    Raises:
        LostClusterError: no node has been alive for :data:`GONE_SECONDS`.
    """
    over, gone = threading.Event(), threading.Event()

    def watch() -> None:
        last_seen = time.monotonic()
        while not over.wait(1.0):
            with suppress(Exception):
                if any(node["Alive"] for node in ray.nodes()):
                    last_seen = time.monotonic()
            if time.monotonic() - last_seen > GONE_SECONDS:
                gone.set()
                # SIGINT is ignored in what a shell starts in the background.
                handled = (n for n in (signal.SIGTERM, signal.SIGINT) if callable(signal.getsignal(n)))
                _thread.interrupt_main(next(handled, signal.SIGINT))
                return

    watcher = threading.Thread(target=watch, name="ray-watcher", daemon=True)
    watcher.start()
    try:
        yield
    except KeyboardInterrupt:
        if gone.is_set():
            raise LostClusterError("no node of Ray is alive any more") from None
        raise
    finally:
        over.set()


def needs(resources: Resources) -> PlacementGroupFactory:
    """Return what one worker process takes, in Tune's terms."""
    wanted = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
    return PlacementGroupFactory([wanted])


def _check_answers(address: str) -> None:
    """Ray waits for minutes for a cluster that is not there; a person should not."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster answers at {address} ({error})") from error


def _host(
    config: dict[str, int],
    bundles: tuple[tuple[Trial, ...], ...],
    folder: StudyFolder,
    data_folder: Path | None,
    resources: Resources,
    retries: int,
    checkpoint_seconds: float,
    pack: int | None,
) -> None:
    failed = 0
    ends = run_bundle(
        bundles[config["bundle"]],
        folder,
        data_folder,
        resources.cpus,
        retries,
        gpus=resources.gpus,
        pack=pack,
        checkpoint_seconds=checkpoint_seconds,
    )
    for done, (_, status) in enumerate(ends, start=1):
        failed += status == "failed"
        tune.report({"trials_done": done, "trials_failed": failed})


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
