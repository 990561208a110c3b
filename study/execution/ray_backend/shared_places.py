"""Finds the nodes that do not see the study's folder, and starts the actor through which they write it.

The actor's name belongs to one study in one folder, and the actor ends with its driver. So it also blocks a
second driver, which may be on a node that does not see the first one's lock file.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.execution.executor import ExecutorError
from study.execution.ray_backend.folder_actor import FolderActor
from study.execution.ray_backend.remote_folder import RemoteFolder
from study.storage.lock_holder import Holder
from study.storage.study_folder import StudyFolder
from study.storage.trial_files import TrialFolder

NAMESPACE = "hypergrad-study"
LEAVING_SECONDS = 15.0
"""Seconds that the actor of a driver that was killed may take to end."""


@dataclass(frozen=True)
class SharedPlaces:
    """How the workers of one driver reach the study's folder. ``share`` creates it, and Ray sends it to them.

    Args:
        folder: The study's folder.
        has_actor: Whether there is a ``FolderActor``; there is none if all workers see the folder.
        mark: Text that the driver wrote into a file of the folder, by which workers recognize it. Default:
            empty, and no worker looks.
    """

    folder: StudyFolder
    has_actor: bool = False
    mark: str = ""

    def here(self) -> TrialFolder:
        """Return the folder itself if this process sees it; otherwise a folder that uses the actor."""
        if not self.has_actor or self.is_seen():
            return self.folder
        return RemoteFolder(ray.get_actor(str(self.folder.path), namespace=NAMESPACE))

    def is_seen(self) -> bool:
        """Return whether this process sees the folder that the driver writes."""
        with suppress(OSError):
            return bool(self.mark) and _mark_file(self.folder).read_text() == self.mark
        return False


def share(folder: StudyFolder, *, look: bool) -> tuple[SharedPlaces, Any]:
    """Start the actor; return how workers anywhere in the cluster reach the study's folder, and its handle.

    The actor ends when the handle is dropped. Drop it before this process leaves Ray: a handle that outlives
    its Ray may end an actor of the next one, whose identifiers start from the beginning again.

    Args:
        folder: The study's folder, on this machine.
        look: Whether workers that see the folder write it themselves; otherwise all use the actor.

    Raises:
        ExecutorError: Another driver runs the study.
        OSError: The folder cannot be written.
    """
    actor = _start_actor(folder)
    if not look:
        return SharedPlaces(folder, has_actor=True), actor
    mark = uuid.uuid4().hex
    folder.path.mkdir(parents=True, exist_ok=True)
    _mark_file(folder).write_text(mark)
    return SharedPlaces(folder, has_actor=True, mark=mark), actor


def count_blind_nodes(places: SharedPlaces) -> tuple[int, int]:
    """Return the number of nodes in the cluster that do not see the folder, and the number of all."""
    ask = ray.remote(num_cpus=0, max_retries=0)(SharedPlaces.is_seen)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(places)
        for node in nodes
    ]
    seen = 0
    for answer in answers:
        with suppress(ray.exceptions.RayError):  # A node that went away meanwhile sees nothing.
            seen += ray.get(answer, timeout=60)
    return len(answers) - seen, len(answers)


def _start_actor(folder: StudyFolder) -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {
        "name": str(folder.path),
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": here,
    }
    deadline = time.monotonic() + LEAVING_SECONDS
    while True:
        try:
            actor: Any = ray.remote(FolderActor).options(**options).remote(folder, str(Holder.here()))
            # Of two that are created at the same time, one dies as soon as it runs.
            ray.get(actor.holder.remote())
            return actor
        except (ValueError, ray.exceptions.RayActorError) as taken:
            if time.monotonic() > deadline:
                other = _holder(str(folder.path)) or "another driver"
                raise ExecutorError(f"the study {folder.name!r} is being run by {other}") from taken
            time.sleep(1.0)


def _holder(name: str) -> str:
    """Return the driver of the actor with a name; an empty text if the actor is gone or does not answer."""
    with suppress(ValueError, ray.exceptions.RayError):
        actor = ray.get_actor(name, namespace=NAMESPACE)
        return str(ray.get(actor.holder.remote(), timeout=10))
    return ""


def _mark_file(folder: StudyFolder) -> Path:
    return folder.path / "driver.mark"
