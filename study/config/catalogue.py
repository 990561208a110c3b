"""The built-in workloads: where each is made, and what planning knows of it without making it."""

from __future__ import annotations

CATALOGUE: dict[str, str] = {
    "digits-logreg": "study.workloads.digits:logreg",
    "digits-mlp": "study.workloads.digits:mlp",
    "chars-gru": "study.workloads.characters:gru",
    "mnist-logreg": "study.workloads.mnist:logreg",
    "mnist-mlp": "study.workloads.mnist:mlp",
    "cifar10-vgg16": "study.workloads.cifar:cifar10_vgg16",
    "imagefolder-vgg16": "study.workloads.cifar:imagefolder_vgg16",
}


TRAIN_SIZES = {
    "digits-logreg": 1_437,
    "digits-mlp": 1_437,
    "chars-gru": 6_400,
    "mnist-logreg": 60_000,
    "mnist-mlp": 60_000,
    "cifar10-vgg16": 50_000,
}
"""Training examples of the built-in workloads."""


ROUGH_RATES = {
    "digits-logreg": 0.0003,
    "digits-mlp": 0.0005,
    "chars-gru": 0.007,
    "mnist-logreg": 0.0006,
    "mnist-mlp": 0.012,
    "cifar10-vgg16": 1.5,
}
"""Seconds per iteration at batch size 128 on one CPU core, to an order of magnitude: no measurements."""


ROUGH_PACKED_RATES = {
    "digits-logreg": 0.00002,
    "digits-mlp": 0.0001,
    "mnist-logreg": 0.00012,
}
"""The same for a trial in a pack, where that is faster."""
