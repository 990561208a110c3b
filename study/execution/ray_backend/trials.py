"""Runs bundles of trials on Ray Tune.

One Tune trial hosts one bundle, because a Tune trial costs seconds of process start and imports while
many of ours cost less. Workers leave their results in journals; Tune schedules, places and retries.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

# First, for what it sets in the environment before ray is imported.
from study.execution.ray_cluster import LostClusterError

# isort: split
import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.placement_groups import PlacementGroupFactory

from study.config.loader import Trial
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions, run_bundle

# Tune asks for processes with these variables, which are for other libraries; Ray would start new ones for
# them while those it has are idle.
class_cache.DEFAULT_ENV_VARS.clear()

MAX_DEATHS = 10
"""How often the process of a bundle may die before the bundle is given up."""
GONE_SECONDS = 10.0


def schedule(bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
    """Run every bundle on the connected Ray and return when all have ended.

    How each trial ended is in its journal. A bundle whose process or node dies starts again, elsewhere if it
    must, skips the trials it had ended and continues the one it was at from its checkpoint.

    Args:
        bundles: trials that share a process, for each process.
        folder: the study's folder, at the same path on every node.
        options: what each process may use, and how it trains.

    Raises:
        LostClusterError: every node is gone.
    """
    host = partial(_host, bundles=tuple(map(tuple, bundles)), folder=folder, options=options)
    tuner = tune.Tuner(
        tune.with_resources(host, needs(options)),
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
        watcher.join(GONE_SECONDS)  # who asks a Ray that is being left is ended by it


def needs(options: WorkerOptions) -> PlacementGroupFactory:
    """Return what one worker process takes, in Tune's terms."""
    wanted = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    return PlacementGroupFactory([wanted])


def _host(
    config: dict[str, int],
    bundles: tuple[tuple[Trial, ...], ...],
    folder: StudyFolder,
    options: WorkerOptions,
) -> None:
    failed = 0
    ends = run_bundle(bundles[config["bundle"]], folder, options)
    for done, (_, status) in enumerate(ends, start=1):
        failed += status == "failed"
        tune.report({"trials_done": done, "trials_failed": failed})
