"""Data, model and loss of what is trained; ``base`` says how to write a workload, ``registry`` finds one."""

from study.workloads.registry import WorkloadError, resolve

__all__ = ["WorkloadError", "resolve"]
