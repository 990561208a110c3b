"""Train some trials and draw docs/first-look.png, the README's picture, from them.

    python tests/benchmarks/first_look.py [FOLDER]      # where to keep the trials

AdamW along a cosine and hypergrad.AdamW, taken down to zero over the second half, from six α₀ on three small
workloads; 600 iterations, medians of three seeds. Takes two to three minutes on two CPU cores.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

import study

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

WORKLOADS = {
    "digits-mlp": "perceptron, digits",
    "friedman-mlp": "regression",
    "chars-transformer": "transformer",
}
FIXED, LEARNED = "torch.optim.AdamW", "hypergrad.AdamW"
COLORS = {FIXED: "#888888", LEARNED: "#0072b2"}
STUDY = {
    "name": "first-look",
    "workloads": list(WORKLOADS),
    "optimizers": [
        {"name": "torch.optim.AdamW", "schedule": "cosine", "label": FIXED},
        {
            "name": "adamw-sgdn",
            "rule": "cosine",
            "schedule": {"name": "cosine", "hold": 300},
            "label": LEARNED,
        },
    ],
    "alpha0": [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
    "seeds": 3,
    "iterations": 600,
    "batch_size": 64,
    "weight_decay": 1e-4,
}


def draw(results: study.Results, path: Path) -> pd.DataFrame:
    """Draw the figure and return the losses that it shows, a row per workload and α₀."""
    trials = results.trials.assign(loss=lambda rows: rows["final_val_loss"].fillna(np.inf))
    losses = trials.groupby(["workload", "optimizer", "alpha0"])["loss"].median().unstack("alpha0")
    figure, axes = plt.subplots(1, 1 + len(WORKLOADS), figsize=(11, 2.9), layout="constrained", sharex="none")
    for optimizer in (FIXED, LEARNED):
        curves = results.curves(workload="chars-transformer", optimizer=optimizer, seed=0)
        for _, curve in curves.groupby("alpha0"):
            axes[0].plot(curve["iteration"], curve["alpha"], color=COLORS[optimizer], linewidth=1.2)
    axes[0].set(yscale="log", ylim=(1e-7, 0.3), xlabel="iteration", title="α of the transformer, from six α₀")
    for axis, (workload, name) in zip(axes[1:], WORKLOADS.items(), strict=True):
        for optimizer in (FIXED, LEARNED):
            row = losses.loc[workload, optimizer]
            axis.plot(row.index, row, "o-", color=COLORS[optimizer], markersize=4, label=optimizer)
        axis.set(xscale="log", yscale="log", xlabel="α₀", title=f"{name}: final validation loss")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_locator(NullLocator())
    axes[3].legend(frameon=False, fontsize=8, loc=(0.0, 0.15))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(9)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)
    return losses


def main() -> None:
    """Train, draw, and print the losses."""
    with tempfile.TemporaryDirectory() as folder:
        runs = sys.argv[1] if len(sys.argv) > 1 else folder
        results = study.run(STUDY, runs=runs, report=False)
        print(draw(results, Path(__file__).parents[2] / "docs" / "first-look.png").round(4).to_string())


if __name__ == "__main__":
    main()
