"""A plain PyTorch training loop whose learning rate is learned: hypergrad.AdamW against torch.optim.AdamW.

Run it with ``python examples/training_loop.py``. It needs PyTorch and hypergrad alone, and takes seconds.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

import hypergrad


def make_data(rows: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points in 20 dimensions and their classes, which a small network can learn."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, 20, generator=generator)
    teacher = torch.randn(20, 5, generator=generator)
    return inputs, (inputs @ teacher).argmax(dim=1)


def train(make_optimizer: Callable[..., torch.optim.Optimizer], epochs: int = 5) -> list[tuple[float, float]]:
    """Train a network and return, for each epoch, its mean loss and α at the end."""
    torch.manual_seed(0)
    inputs, targets = make_data()
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = make_optimizer(model.parameters())
    history = []
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(inputs))
        for rows in order.split(128):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        history.append((total / len(inputs), float(optimizer.param_groups[0]["lr"])))
    return history


def main() -> None:
    """Train with a learning rate that is too small, fixed and learned, and print both."""
    fixed = train(lambda params: torch.optim.AdamW(params, lr=1e-4))
    learned = train(lambda params: hypergrad.AdamW(params, lr=1e-4))
    print("epoch  fixed: loss  α            learned: loss  α")
    for epoch, ((loss, alpha), (own_loss, own_alpha)) in enumerate(zip(fixed, learned, strict=True), 1):
        print(f"{epoch:5}   {loss:10.4f}  {alpha:.2e}   {own_loss:15.4f}  {own_alpha:.2e}")


if __name__ == "__main__":
    main()
