"""Runs bundles of trials on Ray Tune.

One Tune trial runs one bundle, because a Tune trial costs seconds of process start and imports, while many of
our trials cost less. Workers write results into journals; Tune schedules, places and retries.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.execution.placement_groups import PlacementGroupFactory

from study.config.loader import Trial
from study.execution.executor import LostWorkersError
from study.execution.ray_backend.sent_data import SentData
from study.execution.ray_backend.shared_places import SharedPlaces
from study.storage import interrupt
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions, run_bundle

# Errors are in the journals.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
# Tune gives its processes these variables, which are for other libraries. For them Ray would start new
# processes and leave its idle ones unused; tests/study/execution/ray_backend/test_cluster.py checks it.
class_cache.DEFAULT_ENV_VARS.clear()

MAX_DEATHS = 10
"""Number of times that the process of a bundle may die before the bundle is abandoned."""
GONE_SECONDS = 10.0
"""Seconds without a live node after which Ray counts as lost."""


def schedule(
    bundles: Sequence[Sequence[Trial]],
    folder: StudyFolder,
    options: WorkerOptions,
    places: SharedPlaces | None = None,
    data: SentData | None = None,
) -> None:
    """Run every bundle on the connected Ray and return when all have ended.

    The journals say how each trial ended. A bundle whose process or node dies starts again, elsewhere if
    necessary, skips the trials that have ended, and resumes the current one from its checkpoint.

    Args:
        bundles: The trials that each process trains.
        folder: The study's folder.
        options: What each process may use, and how it trains.
        places: How a process reaches the folder. Default: all see it at the same path.
        data: Data sets for nodes that lack them. Default: none.

    Raises:
        LostWorkersError: Every node is gone.
    """
    host = partial(
        _host,
        bundles=tuple(map(tuple, bundles)),
        places=places or SharedPlaces(folder),
        data=data or SentData(),
        options=options,
    )
    fit(
        tune.with_resources(host, needs(options)),
        folder,
        param_space={"bundle": tune.grid_search(list(range(len(bundles))))},
    )


def fit(
    trainable: Any, folder: StudyFolder, *, param_space: dict[str, Any] | None = None, **config: Any
) -> None:
    """Run Tune trials to their end, without printing.

    Args:
        trainable: The function that a Tune trial runs, with its resources.
        folder: The study's folder, where Tune keeps its state.
        param_space: As for ``tune.Tuner``.
        config: As for ``tune.TuneConfig``.

    Raises:
        LostWorkersError: Every node is gone.
    """
    tuner = tune.Tuner(
        trainable,
        param_space=param_space,
        # A process takes one trial after the other: starting one and loading the data take seconds.
        tune_config=tune.TuneConfig(reuse_actors=True, **config),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:12],
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=MAX_DEATHS),
            verbose=0,
        ),
    )
    with _watching_for_lost_nodes():
        tuner.fit()


@contextmanager
def _watching_for_lost_nodes() -> Iterator[None]:
    """Interrupt Tune if no node is left, for example after the only node was killed; it would wait forever.

    Raises:
        LostWorkersError: No node has been alive for ``GONE_SECONDS``.
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
                interrupt.interrupt()
                return

    watcher = threading.Thread(target=watch, name="ray-watcher", daemon=True)
    with interrupt.interruptible():
        watcher.start()
        try:
            yield
        except KeyboardInterrupt:
            if gone.is_set():
                raise LostWorkersError("no node of Ray is alive any more") from None
            raise
        finally:
            # Stop polling before ray.shutdown(): Ray aborts a process that queries it during the shutdown.
            over.set()
            watcher.join(GONE_SECONDS)


def needs(options: WorkerOptions) -> PlacementGroupFactory:
    """Return the resources of one worker process, in Tune's terms."""
    wanted = {"CPU": options.cpus} | ({"GPU": options.gpus} if options.gpus else {})
    return PlacementGroupFactory([wanted])


def _host(
    config: dict[str, int],
    bundles: tuple[tuple[Trial, ...], ...],
    places: SharedPlaces,
    data: SentData,
    options: WorkerOptions,
) -> None:
    done = failed = 0
    data.unpack(options.data_folder)
    ends = run_bundle(bundles[config["bundle"]], places.here(), options)
    for done, (_, status) in enumerate(ends, start=1):
        failed += status == "failed"
        tune.report({"trials_done": done, "trials_failed": failed})
    if not done:  # the time is up; Tune prints a line about a process that reports nothing
        tune.report({"trials_done": 0, "trials_failed": 0})
