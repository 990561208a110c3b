"""A learned learning rate in the Trainer of Hugging Face, with a schedule that multiplies α.

    pip install transformers accelerate
    python examples/hugging_face_trainer.py

Give the Trainer a scheduler as well. Without one it makes its own, which overwrites the learned α in every
step.
"""

from __future__ import annotations

import tempfile

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import hypergrad

STEPS = 80


class Examples(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        self.inputs = torch.randn(512, 20, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"inputs": self.inputs[index], "labels": (self.inputs[index].sum() > 0).long()}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def main(steps: int = STEPS) -> Trainer:
    torch.manual_seed(0)
    model = Classifier()
    optimizer = hypergrad.AdamW(model.parameters())
    schedule = LinearLR(optimizer.schedule, start_factor=1.0, end_factor=0.0, total_iters=steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=32,
            logging_steps=20,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Examples(), optimizers=(optimizer, schedule))
        trainer.train()
    # The Trainer logs the schedule's factor as learning_rate. α itself:
    print("alpha", float(optimizer.learning_rates[0]))
    return trainer


if __name__ == "__main__":
    main()
