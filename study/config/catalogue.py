"""The built-in workloads: the function that makes each, and the facts that planning needs about it."""

from __future__ import annotations

from typing import NamedTuple


class BuiltIn(NamedTuple):
    """A workload that study files can name without writing ``module:function``."""

    function: str
    """``"module:function"`` of the function that makes it."""
    train_size: int | None = None
    """Number of training examples; ``None`` if they are the user's own."""
    seconds: float | None = None
    """Seconds of an iteration at batch size 128 on one CPU core, an estimate to an order of magnitude."""
    packed_seconds: float | None = None
    """The same for a trial in a pack; ``None`` if packs are not faster."""


CATALOGUE: dict[str, BuiltIn] = {
    "digits-logreg": BuiltIn("study.workloads.digits:logreg", 1_437, 0.0003, 0.00002),
    "digits-mlp": BuiltIn("study.workloads.digits:mlp", 1_437, 0.0005, 0.0001),
    "digits-noisy-mlp": BuiltIn("study.workloads.digits:noisy_mlp", 1_437, 0.0005, 0.0001),
    "digits-autoencoder": BuiltIn("study.workloads.digits:autoencoder", 1_437, 0.0006, 0.0001),
    "digits-conv": BuiltIn("study.workloads.digits:conv", 1_437, 0.003),
    "friedman-mlp": BuiltIn("study.workloads.regression:friedman_mlp", 3_200, 0.0004, 0.00006),
    "friedman-deep": BuiltIn("study.workloads.regression:friedman_deep", 3_200, 0.001, 0.0001),
    "collinear-linear": BuiltIn("study.workloads.regression:collinear_linear", 3_200, 0.0003, 0.00002),
    "parity-mlp": BuiltIn("study.workloads.plateaus:parity_mlp", 6_400, 0.0004, 0.00005),
    "adding-gru": BuiltIn("study.workloads.plateaus:adding_gru", 6_400, 0.0025),
    "ratings-factors": BuiltIn("study.workloads.ratings:factors", 12_800, 0.0004, 0.0001),
    "chars-gru": BuiltIn("study.workloads.characters:gru", 6_400, 0.007),
    "chars-transformer": BuiltIn("study.workloads.characters:transformer", 12_800, 0.005),
    "mnist-logreg": BuiltIn("study.workloads.mnist:logreg", 60_000, 0.0006, 0.00012),
    "mnist-mlp": BuiltIn("study.workloads.mnist:mlp", 60_000, 0.012),
    "cifar10-vgg16": BuiltIn("study.workloads.cifar:cifar10_vgg16", 50_000, 1.5),
    "imagefolder-vgg16": BuiltIn("study.workloads.cifar:imagefolder_vgg16"),
}
