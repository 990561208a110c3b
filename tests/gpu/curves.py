"""The paper's six learned optimizers, and the curve of a trial, an epoch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpu.harness import Results
from study.config.trial import Trial
from study.storage.records import EpochRecord

OPTIMIZERS = ("adam-adam", "adam-sgd", "sgd-sgd", "sgd-sgdn", "sgdn-sgd", "sgdn-sgdn")
"""The paper's learned optimizers, those of Adam first."""
COLUMNS = ("train_loss", "val_loss", "val_accuracy", "alpha", "seconds")
"""Of a curve; one entry per epoch. Loss and α of the training are means over the epoch's iterations."""


def trial(
    workload: str, optimizer: str, *, seed: int, epochs: int, adam_beta: float, batch: int = 128
) -> Trial:
    """Return a trial with the settings of the presets ``figure1-mlp`` and ``figure1-vgg``.

    Args:
        workload: A name of the catalogue.
        optimizer: One of :data:`OPTIMIZERS`.
        seed: Of the weights and the order of the data.
        epochs: Its budget.
        adam_beta: β where the model's optimizer is Adam, 1e-3 elsewhere.
        batch: Rows of a batch; 128 in the presets.
    """
    on_adam = optimizer.startswith("adam")
    return Trial(
        workload,
        optimizer,
        alpha0=1e-3,
        beta=adam_beta if on_adam else 1e-3,
        seed=seed,
        epochs=epochs,
        batch_size=batch,
        weight_decay=1e-4,
        granularity="released" if on_adam else "group",
    )


def begin(results: Results, trials: Sequence[Trial]) -> dict[str, dict[str, Any]]:
    """Add an empty curve for each trial to the results and return them by the trials' keys."""
    return {
        one.key: results.add(
            "curve",
            show=False,
            optimizer=one.optimizer,
            seed=one.seed,
            beta=one.beta,
            diverged=False,
            **{column: [] for column in COLUMNS},
        )
        for one in trials
    }


def extend(curve: dict[str, Any], record: EpochRecord) -> None:
    """Append an epoch to a curve."""
    values = {
        "train_loss": float(record.train_loss.mean()),
        "val_loss": float(record.val_loss),
        "val_accuracy": float(record.val_accuracy),
        "alpha": float(record.alpha.mean()),
        "seconds": float(record.seconds),
    }
    for column, value in values.items():
        curve[column].append(value)
    curve["diverged"] = record.diverged


def show(curve: dict[str, Any]) -> None:
    """Print where a curve ends."""
    if not curve["alpha"]:
        print(f"{curve['optimizer']} seed {curve['seed']}: no epoch was finished")
        return
    print(
        f"{curve['optimizer']} seed {curve['seed']}: {len(curve['alpha'])} epochs of"
        f" {sum(curve['seconds']) / len(curve['seconds']):.2f} s, train loss {curve['train_loss'][-1]:.4g},"
        f" validation {curve['val_loss'][-1]:.4g} and {100 * curve['val_accuracy'][-1]:.2f} %,"
        f" alpha {curve['alpha'][-1]:.4g}{', diverged' if curve['diverged'] else ''}",
        flush=True,
    )
