"""What the study's training loop costs beside a bare loop: forward, backward and ``hypergrad`` step alone.

Prints milliseconds per iteration of both and their ratio, medians over repetitions measured in turns.

    python tests/benchmarks/iteration.py [--workload digits-mlp --optimizer adam-adam --iterations 200 ...]
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch

import hypergrad
from study.config.loader import Trial
from study.training.device import choose_device
from study.training.trainer import train
from study.workloads import datasets, registry


def bare_loop(trial, workload, data, device):
    """Return the seconds of ``trial.iterations`` iterations that keep nothing."""
    torch.manual_seed(trial.seed)
    model = workload.build().to(device)
    options = {} if trial.lop is None else {"hypergrad_lr": trial.beta, "granularity": trial.granularity}
    optimizer = hypergrad.create(
        trial.optimizer, model.parameters(), lr=trial.alpha0, weight_decay=trial.weight_decay, **options
    )
    inputs = data.train_inputs[: trial.batch_size]
    targets = data.train_targets[: trial.batch_size]
    if workload.prepare is not None:
        inputs = workload.prepare(inputs, None)
    model.train()
    synchronize(device)
    started = time.perf_counter()
    for _ in range(trial.iterations):
        optimizer.zero_grad(set_to_none=True)
        workload.loss(model(inputs), targets).backward()
        optimizer.step()
    synchronize(device)
    return time.perf_counter() - started


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", help="default: digits-logreg and digits-mlp")
    parser.add_argument("--argument", action="append", default=[], metavar="NAME=VALUE", help="workload's")
    parser.add_argument("--optimizer", action="append", help="default: sgd-sgdn and adam-adam")
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device(gpus=1)
    print(f"torch {torch.__version__}, {device}, {options.threads} threads, batch {options.batch_size}")
    print(f"{'workload':<20} {'optimizer':<10} {'study ms':>9} {'bare ms':>9} {'ratio':>6}")
    names = options.workload or ["digits-logreg", "digits-mlp"]
    for name, optimizer in itertools.product(names, options.optimizer or ["sgd-sgdn", "adam-adam"]):
        workload = registry.resolve(name, dict(pair.split("=", 1) for pair in options.argument))
        data = datasets.load(workload, options.data, device)
        trial = Trial(
            name, optimizer, 1e-3, 1e-6, seed=0, iterations=options.iterations, batch_size=options.batch_size
        )
        bare_loop(trial, workload, data, device)
        studied, bared = [], []
        for _ in range(options.repetitions):
            studied.append(sum(record.seconds for record in train(trial, workload, data, device)))
            bared.append(bare_loop(trial, workload, data, device))
        study, bare = (statistics.median(times) / options.iterations * 1e3 for times in (studied, bared))
        print(f"{name:<20} {optimizer:<10} {study:9.3f} {bare:9.3f} {study / bare:6.2f}")


if __name__ == "__main__":
    main()
