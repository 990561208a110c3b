"""The curves of α and h in TensorBoard, or in Weights & Biases.

pip install tensorboard
python examples/log_alpha.py                        # then: tensorboard --logdir runs-tensorboard
pip install wandb
WANDB_MODE=offline python examples/log_alpha.py wandb
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import nn

import hypergrad

Log = Callable[[dict[str, float], int], None]


def to_tensorboard(folder: str) -> Log:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def to_wandb(project: str) -> Log:
    import wandb

    run = wandb.init(project=project)
    return lambda values, step: run.log(values, step=step)


def train(log: Log, steps: int = 100, every: int = 10) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = hypergrad.AdamW(model.parameters())
    for step in range(steps):
        inputs = torch.randn(32, 20)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), (inputs.sum(1) > 0).long())
        loss.backward()
        optimizer.step()
        if step % every == 0:  # float() waits for a GPU, so not in every step
            alpha, h = optimizer.learning_rates[0], optimizer.hypergradients[0]
            log({"loss": float(loss.detach()), "alpha": float(alpha), "hypergradient": float(h)}, step)


if __name__ == "__main__":
    train(to_wandb("hypergrad") if "wandb" in sys.argv else to_tensorboard("runs-tensorboard"))
