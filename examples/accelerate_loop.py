"""A learned learning rate in a loop of Accelerate, with a schedule that multiplies α.

pip install accelerate
accelerate launch examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

import hypergrad


def main(epochs: int = 5) -> float:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    inputs = torch.randn(512, 20)
    data = DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=32, shuffle=True)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = hypergrad.AdamW(model.parameters())
    schedule = LinearLR(optimizer.schedule, start_factor=1.0, end_factor=0.0, total_iters=epochs * len(data))
    model, prepared, data, schedule = accelerator.prepare(model, optimizer, data, schedule)
    loss = torch.tensor(0.0)
    for epoch in range(epochs):
        for batch, labels in data:
            prepared.zero_grad()
            loss = nn.functional.cross_entropy(model(batch), labels)
            accelerator.backward(loss)
            prepared.step()
            schedule.step()
        alpha = float(optimizer.learning_rates[0])
        accelerator.print(f"epoch {epoch}  loss {float(loss.detach()):.4f}  alpha {alpha:.5f}")
    return float(loss.detach())


if __name__ == "__main__":
    main()
