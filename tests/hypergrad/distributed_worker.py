"""One of test_distributed.py's processes. Arguments: rank, number of ranks, store's file, results' folder."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import hypergrad

STEPS = 6
CASES = {
    "sgd-sgd": {"lr": 0.05, "hypergrad_lr": 1e-3},
    "adam-adam tensor": {
        "lr": 0.01,
        "hypergrad_lr": 1e-3,
        "granularity": "tensor",
        "rule": "additive-cosine",
    },
    "sgdn-sgdn released": {
        "lr": 0.01,
        "hypergrad_lr": 1e-2,
        "granularity": "released",
        "rule": "multiplicative",
        "weight_decay": 0.1,
        "decoupled_weight_decay": True,
    },
    "adam-lion": {"lr": 0.01, "hypergrad_lr": 1e-4, "rule": "additive-cosine", "fused": True},
}


def model():
    torch.manual_seed(0)
    # Five rows over two ranks: shards of unequal sizes, and a bias that one rank has nothing of.
    layers = (torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    return torch.nn.Sequential(*layers).double()


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS, 8, 4, generator=generator, dtype=torch.float64)
    return inputs, inputs.sin().sum(-1, keepdim=True)


def train(network, optimizer, rank, world, steps=range(STEPS)):
    """Return α and h of each step."""
    inputs, targets = batches()
    log = []
    for step in steps:
        optimizer.zero_grad()
        mine = slice(rank, None, world)
        ((network(inputs[step, mine]) - targets[step, mine]) ** 2).mean().backward()
        optimizer.step()
        log.append(torch.stack([*optimizer.learning_rates, *optimizer.hypergradients]))
    return torch.stack(log)


def make(case, network):
    return hypergrad.create(case.split()[0], network.parameters(), **CASES[case])


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def main(rank, world, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for case in CASES:
        alone = model()
        expected = train(alone, make(case, alone), 0, 1), [p.detach() for p in alone.parameters()]

        network = model()
        log = train(DistributedDataParallel(network), make(case, network), rank, world)
        ddp = log, [p.detach() for p in network.parameters()]

        network = model()
        for layer in network:
            fully_shard(layer, mesh=mesh)
        fully_shard(network, mesh=mesh)
        optimizer = make(case, network)
        first = train(network, optimizer, rank, world, range(3))
        # A checkpoint by torch's own tools, into a fresh optimizer that goes on.
        saved = get_optimizer_state_dict(network, optimizer)
        optimizer = make(case, network)
        set_optimizer_state_dict(network, optimizer, saved)
        second = train(network, optimizer, rank, world, range(3, STEPS))
        assert all(isinstance(p, DTensor) for p in network.parameters())
        fsdp = torch.cat([first, second]), [whole(p) for p in network.parameters()]
        found[case] = {"alone": expected, "ddp": ddp, "fsdp": fsdp}
    torch.save(found, Path(results) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
