"""The gallery figure: what each rate rule does to α on one problem, from three first values.

Softmax regression on scikit-learn's digits (1,500 training images, batches of 100, 40 epochs of 15
iterations, weight decay 0.01), op SGD. The three α₀ are members of one stack and see the same batches; so do
the values of β that are tried, of which each panel shows the one with the lowest mean log10 objective over
the three α₀ at the end.

    python tests/benchmarks/gallery.py docs/hypergrad/gallery.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from hypergrad import directions, functional, rates

LOPS = {name: rule() for name, rule in rates.RATE_RULES.items()}
TRANSFORMS: dict[str, dict[str, bool]] = {
    "additive": {},
    "multiplicative": {"rule": "multiplicative"},
    "cosine": {"rule": "cosine"},
}
ALPHA0 = (1e-3, 1e-1, 1e1)
BETAS = [10 ** (k / 3) for k in range(-18, 4)]
COLOURS = ("#0072B2", "#009E73", "#D55E00")
EPOCHS, BATCH, TRAINING, DECAY = 40, 100, 1500, 0.01


def data() -> tuple[Tensor, Tensor]:
    """Return the training images, (1500, 64), standardised, and their classes."""
    inputs, targets = load_digits(return_X_y=True)
    values = torch.tensor(inputs[:TRAINING], dtype=torch.float64)
    return (values - values.mean(0)) / (values.std(0) + 1e-3), torch.tensor(targets[:TRAINING])


def train(lr: Tensor, beta: Tensor, rate: rates.Rate | None, **options: bool) -> tuple[Tensor, Tensor]:
    """Return α of each iteration and member, and each member's objective at the end, over all images."""
    inputs, targets = data()
    members = len(lr)
    params = [
        torch.zeros(members, 64, 10, dtype=torch.float64),
        torch.zeros(members, 1, 10, dtype=torch.float64),
    ]
    state = functional.init(params, rate, lr=lr, members=members)
    hot = torch.nn.functional.one_hot(targets, 10).double()
    step_options = functional.StepOptions(hypergrad_lr=beta, weight_decay=DECAY, **options)
    order = torch.Generator().manual_seed(0)
    path = []
    for _ in range(EPOCHS):
        for chosen in torch.randperm(TRAINING, generator=order).split(BATCH):
            x = inputs[chosen]
            # The gradient of the mean cross entropy by hand: members share the batch.
            error = ((x @ params[0] + params[1]).softmax(-1) - hot[chosen]) / BATCH
            grads = [x.T @ error, error.sum(1, keepdim=True)]
            functional.update(params, grads, state, directions.SGD(), rate, step_options)
            path.append(torch.as_tensor(state.alpha).clone())
    logits = inputs @ params[0] + params[1]
    losses = -(logits.log_softmax(-1) * hot).sum(-1).mean(-1)
    penalties = sum((param**2).sum((1, 2)) for param in params) * DECAY / 2
    return torch.stack(path), losses + penalties


def best_fixed() -> float:
    """Return the fixed α with the lowest final objective, of 25 from 1e-3 to 1e3."""
    lr = torch.logspace(-3, 3, 25, dtype=torch.float64)
    _, losses = train(lr, torch.zeros(()), None)
    return float(lr[losses.nan_to_num(torch.inf).argmin()])


def best_beta(rate: rates.Rate, **options: bool) -> tuple[float, Tensor, Tensor]:
    """Return the β that serves all α₀ best, the path of α for each, and the final losses."""
    lr = torch.tensor(ALPHA0, dtype=torch.float64).repeat(len(BETAS))
    beta = torch.tensor(BETAS, dtype=torch.float64).repeat_interleave(len(ALPHA0))
    path, losses = train(lr, beta, rate, **options)
    losses = losses.nan_to_num(torch.inf).clamp(1e-12, 1e6).reshape(len(BETAS), len(ALPHA0))
    best = int(losses.log10().mean(1).argmin())
    return BETAS[best], path.reshape(len(path), len(BETAS), -1)[:, best], losses[best]


def draw(path: Path) -> None:
    """Train everything and write the figure."""
    fixed = best_fixed()
    rows, columns = len(TRANSFORMS), len(LOPS)
    figure = Figure(figsize=(2.35 * columns + 0.6, 2.1 * rows + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for row, (transform, options) in zip(panels, TRANSFORMS.items(), strict=True):
        for axes, (lop, rate) in zip(row, LOPS.items(), strict=True):
            beta, alphas, losses = best_beta(rate, **options)
            axes.axhline(fixed, color="#999999", lw=0.8, ls=(0, (1, 1.6)))
            for index, colour in enumerate(COLOURS):
                alpha = alphas[:, index].clone()
                alpha[alpha <= 0] = torch.nan  # a gap where an additive rule goes below zero
                axes.plot(range(1, len(alpha) + 1), alpha, color=colour, lw=1.2)
            axes.set_yscale("log")
            axes.set_ylim(3e-4, 3e2)
            axes.set_title(f"{lop}, β = {beta:.2g}", fontsize=9)
            text = "  ".join(f"{loss:.3f}" if loss < 1e3 else "∞" for loss in losses)
            axes.text(
                0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", fontsize=8, color="#444444"
            )
            print(f"{transform:15} {lop:8} beta {beta:8.2g}  {text}", flush=True)
        row[0].set_ylabel(f"{transform}\nα", fontsize=9)
    for axes in panels[-1]:
        axes.set_xlabel("iteration", fontsize=8)
    handles = [mpl.lines.Line2D([], [], color=colour, lw=1.5) for colour in COLOURS]
    labels = [f"α₀ = {alpha0:g}" for alpha0 in ALPHA0]
    handles.append(mpl.lines.Line2D([], [], color="#999999", lw=0.8, ls=(0, (1, 1.6))))
    labels.append(f"best fixed α, {fixed:.2g}")
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(
        "What each rate rule does to α: softmax regression on digits, op SGD, one β per panel\n"
        "(top right: the objective at the end, from the smallest α₀ to the largest)",
        fontsize=10,
    )
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4", lw=0.6)
        axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the PNG file to write")
    torch.set_num_threads(1)
    draw(parser.parse_args().path)
