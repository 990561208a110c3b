"""Finds a user's own modules in the current folder, to send them to the other nodes of a cluster."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from study.config.loader import Study

OURS = ("study", "hypergrad")


def modules_to_send(study: Study, folder: Path) -> list[Path]:
    """Return the modules and packages in ``folder``, if the study names one of them; otherwise none.

    It returns all of them, because one may import another, except those that would hide an installed one.

    Args:
        study: The study.
        folder: The folder in which the study is run.
    """
    named = {workload.use.partition(":")[0] for workload in study.workloads if ":" in workload.use}
    named |= {optimizer.name for optimizer in study.optimizers if "." in optimizer.name}
    modules = [path for path in sorted(folder.iterdir()) if _is_module(path)]
    own = {path.stem: path for path in modules if not _is_installed(path.stem, folder)}
    return list(own.values()) if any(name.partition(".")[0] in own for name in named) else []


def _is_module(path: Path) -> bool:
    return path.stem.isidentifier() and (path.suffix == ".py" or (path / "__init__.py").is_file())


def _is_installed(name: str, folder: Path) -> bool:
    if name in OURS or name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and folder not in Path(spec.origin).parents
