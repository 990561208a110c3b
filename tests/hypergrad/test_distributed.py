"""Two processes with gloo: DDP and FSDP2 learn the same α on every rank, that of the whole batch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")
CASES = ["sgd-sgd", "adam-adam tensor", "sgdn-sgdn released", "adam-lion"]

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), "2", str(folder / "store"), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES)
def test_all_ranks_learn_the_same_rate(ranks, case, how):
    (log, params), (other_log, other_params) = (rank[case][how] for rank in ranks)
    assert torch.equal(log, other_log)
    assert all(torch.equal(a, b) for a, b in zip(params, other_params, strict=True))


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_that_of_the_whole_batch(ranks, case, how):
    log, params = ranks[0][case][how]
    expected_log, expected_params = ranks[0][case]["alone"]
    torch.testing.assert_close(log, expected_log, rtol=1e-9, atol=1e-12)
    for a, b in zip(params, expected_params, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    alphas = expected_log[:, 0].reshape(len(log), -1)
    assert not torch.equal(alphas[0], alphas[-1])
