"""Workloads: data, a model and a loss. ``base`` says how to write one, ``registry`` finds one by its name."""

from study.workloads.registry import WorkloadError, resolve

__all__ = ["WorkloadError", "resolve"]
