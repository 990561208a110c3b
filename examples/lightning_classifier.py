"""A learned learning rate in Lightning: an optimizer, a schedule that multiplies α, and α in the logs.

pip install lightning
python examples/lightning_classifier.py
"""

from __future__ import annotations

import lightning
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, TensorDataset

import hypergrad


class Classifier(lightning.LightningModule):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
        self.steps = steps

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = hypergrad.AdamW(self.parameters())
        # Lightning refuses a scheduler of anything but its optimizer, so this module steps it.
        self.decay = LinearLR(optimizer.schedule, start_factor=1.0, end_factor=0.0, total_iters=self.steps)
        return optimizer

    def on_train_batch_end(self, *_: object) -> None:
        self.decay.step()
        self.log("alpha", self.optimizers().param_groups[0]["lr"])


def main(epochs: int = 5) -> Classifier:
    torch.manual_seed(0)
    inputs = torch.randn(512, 20)
    data = DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=32, shuffle=True)
    model = Classifier(steps=epochs * len(data))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, data)
    print({name: round(float(value), 5) for name, value in trainer.logged_metrics.items()})
    return model


if __name__ == "__main__":
    main()
