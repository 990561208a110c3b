"""A worker on a GPU machine: the device that a study asked for, and a pack that the memory does not hold."""

from __future__ import annotations

import textwrap

import pytest
import torch

from study.config.trial import Trial
from study.storage.study_folder import StudyFolder
from study.training import worker

pytestmark = pytest.mark.gpu

WORKLOAD = """
    import torch
    from torch import nn
    from study.workloads.base import Data, Workload

    def load(folder):
        random = torch.Generator().manual_seed(0)
        inputs, targets = torch.randn(200, 512, generator=random), torch.randint(10, (200,), generator=random)
        return Data(inputs[:160], targets[:160], inputs[160:], targets[160:])

    def make():
        def build():
            return nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 10))

        return Workload("wide", load, build)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs trials in this process as a worker would; returns their records."""
    (tmp_path / "wide_gpu_workload.py").write_text(textwrap.dedent(WORKLOAD))
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(trials, **options):
        folder = StudyFolder(tmp_path / "runs", "study")
        list(worker.run_bundle(trials, folder, worker.WorkerOptions(**options)))
        return folder.records(trials)

    yield run
    torch.set_num_threads(1)


def trials(count):
    return [
        Trial("wide_gpu_workload:make", "adam-adam", 1e-3, 1e-7, seed, epochs=2, batch_size=32)
        for seed in range(count)
    ]


def test_a_worker_without_a_gpu_trains_on_the_cpu_though_the_machine_has_one(run, device):
    (record,) = run(trials(1), gpus=0)
    assert record.status == "finished", record.error
    assert record.machine["device"].startswith("cpu")


def test_a_worker_with_a_gpu_trains_on_it(run, cuda):
    records = run(trials(2), gpus=1, pack=2)
    assert [record.status for record in records] == ["finished"] * 2
    assert {record.machine["device"] for record in records} == {torch.cuda.get_device_name(cuda)}


def test_a_pack_that_the_memory_does_not_hold_is_trained_in_smaller_ones(run, cuda):
    """Of 4.3 MB a member, with its gradient, three states and what a step needs; 32 of them need 1 GB."""
    _, total = torch.cuda.mem_get_info(cuda)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved(cuda) + 500e6
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total), cuda)
    try:
        records = run(trials(32), gpus=1, pack=32)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    assert [record.status for record in records] == ["finished"] * 32
    assert torch.cuda.max_memory_allocated(cuda) < allowed
