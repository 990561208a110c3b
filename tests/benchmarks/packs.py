"""Measures trial-iterations per second of packs over the number of members, beside the same trials unpacked.

Prints a table; each ratio comes from one run. Needs torch and the workload's data, Ray and MLflow only with
``--tune``, matplotlib only with ``--figure``. The machine must be otherwise idle.

    python tests/benchmarks/packs.py [--workload mnist-mlp --optimizer adam-adam --members 1 4 --data FOLDER]

The columns: trial-iterations per second of the pack, of one trial at a time in the same process with the
same threads, and their ratio; then the share of the pack's time that its matrix products alone take (on
operands of the same shapes, in the same process), the seconds of validation per member, and the most memory
that the pack takes beside the data (on a GPU, the device's memory).
"""

import argparse
import itertools
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from study.config.trial import Trial
from study.training import stacked_model
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import datasets, registry

HEADING = (
    f"{'members':>7} {'packed it/s':>12} {'unpacked it/s':>14} {'ratio':>6} {'products':>9} "
    f"{'validation s':>13} {'memory MB':>10}"
)


def trials_of(options, name, optimizer, members):
    """Members that differ in α₀ and, over ``options.seeds`` of them, in the seed."""
    beta = 1e-7 if optimizer.startswith("adam") else 1e-3
    return [
        Trial(
            name,
            optimizer,
            1e-3 * (1 + index / members),
            beta,
            seed=index % options.seeds,
            iterations=max(options.least, round(options.iterations / members)),
            batch_size=options.batch_size,
            granularity=options.granularity,
        )
        for index in range(members)
    ]


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work, device):
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def packed(trials, workload, data, device, capture):
    """Return trial-iterations per second and seconds of validation per member, over a fresh pack."""
    pack = PackTraining(trials, workload, data, device, capture=capture)
    started = time.perf_counter()
    records = [record for epoch in pack.epochs() for _, record in epoch]
    synchronize(device)
    seconds = time.perf_counter() - started
    training = sum(record.seconds for record in records)
    return sum(record.iterations for record in records) / training, (seconds - training) / len(trials)


def unpacked(trials, workload, data, device, at_most=3):
    """Return iterations per second of the first trials, each alone and then the next."""
    records = [
        record for trial in trials[:at_most] for record in Training(trial, workload, data, device).epochs()
    ]
    return sum(record.iterations for record in records) / sum(record.seconds for record in records)


def products(trials, workload, data, device, least=0.5):
    """Return the seconds that the matrix products of one iteration of a perceptrons' pack take by themselves.

    The products are: forward, gradients of the weights, and gradients of the activations but the first.
    They are repeated for about ``least`` seconds. Returns None if the workload is no perceptron.
    """
    model = workload.build()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    if not isinstance(stacked_model.stack([model], data.train_inputs.ndim), stacked_model.Perceptron):
        return None
    members, batch = len(trials), trials[0].batch_size
    seeds = [trial.seed for trial in trials]
    operands = []
    for index, layer in enumerate(layers):
        out, into = layer.weight.shape
        if index == 0:
            shapes = []
            for count in (seeds.count(seed) for seed in set(seeds)):
                shapes += [
                    ((1, count * out, into), (1, into, batch)),
                    ((1, count * out, batch), (1, batch, into)),
                ]
        else:
            shapes = [
                ((members, out, into), (members, into, batch)),
                ((members, out, batch), (members, batch, into)),
                ((members, into, out), (members, out, batch)),
            ]
        kind = {"dtype": layer.weight.dtype, "device": device}
        operands += [(torch.randn(a, **kind), torch.randn(b, **kind)) for a, b in shapes]

    def once():
        for left, right in operands:
            torch.bmm(left, right)

    once()
    repetitions = max(3, int(least / max(1e-6, timed(once, device))))
    return timed(lambda: [once() for _ in range(repetitions)], device) / repetitions


def forget_peak(device):
    """Begin a new measurement of the largest memory; return what is in use, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5")
    return peak(device)


def peak(device):
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(options, name, optimizer, members, results):
    """One line of the table, in a process of its own so that the memory is its own."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    workload = registry.resolve(name, {})
    data = datasets.load(workload, options.data, device)
    trials = trials_of(options, name, optimizer, members)
    packed(trials_of(options, name, optimizer, min(2, members))[:1], workload, data, device, options.capture)
    ours, theirs, validation = [], [], []
    before = forget_peak(device)
    for _ in range(options.repetitions):
        speed, seconds = packed(trials, workload, data, device, options.capture)
        ours.append(speed)
        validation.append(seconds)
        taken = peak(device) - before
        theirs.append(unpacked(trials_of(options, name, optimizer, 1), workload, data, device, 1))
    line = {
        "members": members,
        "packed": statistics.median(ours),
        "unpacked": statistics.median(theirs),
        "validation": statistics.median(validation),
        "memory": taken / 1e6,
    }
    floor = products(trials, workload, data, device)
    line["products"] = None if floor is None else floor * line["packed"] / members
    results.put(line)


def table(options, name, optimizer):
    print(f"\n{name}, {optimizer}, {options.seeds} seeds at most")
    print(HEADING)
    lines = []
    context = multiprocessing.get_context("spawn")
    for members in options.members:
        results = context.Queue()
        process = context.Process(target=measure, args=(options, name, optimizer, members, results))
        process.start()
        while process.is_alive() and results.empty():
            time.sleep(0.05)
        if results.empty():
            sys.exit(f"the process that measured {members} members died")
        line = results.get()
        process.join()
        lines.append(line)
        floor = "" if line["products"] is None else f"{100 * line['products']:.0f} %"
        print(
            f"{members:>7} {line['packed']:>12.0f} {line['unpacked']:>14.0f} "
            f"{line['packed'] / line['unpacked']:>6.2f} {floor:>9} {line['validation']:>13.3f} "
            f"{line['memory']:>10.0f}",
            flush=True,
        )
    return lines


def tune(options, name, optimizer, count):
    """Return trial-iterations per second of a process per trial, under Ray Tune with its MLflow callback."""
    import os

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import logging

    import ray
    from ray import tune as ray_tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    trials = trials_of(options, name, optimizer, count)
    iterations = trials[0].iterations
    folder = str((options.data or datasets.data_dir()).resolve())

    def train(config):
        torch.set_num_threads(1)
        trial = trials[config["index"]]
        workload = registry.resolve(name, {})
        data = datasets.load(workload, Path(folder), "cpu")
        for record in Training(trial, workload, data, torch.device("cpu")).epochs():
            ray_tune.report({"val_loss": record.val_loss, "train_loss": record.train_loss_epoch})

    with tempfile.TemporaryDirectory() as home:
        ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        try:
            started = time.perf_counter()
            ray_tune.Tuner(
                train,
                param_space={"index": ray_tune.grid_search(list(range(count)))},
                run_config=ray_tune.RunConfig(
                    storage_path=home,
                    verbose=0,
                    callbacks=[
                        MLflowLoggerCallback(
                            tracking_uri=f"sqlite:///{home}/mlflow.db", experiment_name="packs"
                        )
                    ],
                ),
            ).fit()
            seconds = time.perf_counter() - started
        finally:
            ray.shutdown()
    return count * iterations / seconds


def draw(tables, path):
    """Seconds per iteration of the whole pack, and memory, over members."""
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, lines in tables.items():
        members = [line["members"] for line in lines]
        left.plot(members, [1e3 * line["members"] / line["packed"] for line in lines], "o-", label=name)
        right.plot(members, [line["memory"] for line in lines], "o-", label=name)
        first = 1e3 / lines[0]["unpacked"]
        left.plot(members, [first * count for count in members], ":", color="grey", linewidth=1)
    for axes, what in ((left, "ms per iteration of the pack"), (right, "largest memory, MB")):
        axes.set(xscale="log", yscale="log", xlabel="members", ylabel=what)
        axes.grid(True, which="major", alpha=0.3)
    left.legend(frameon=False)
    left.set_title("dotted: as many single trials", fontsize="small")
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workload", action="append", help="default: mnist-logreg and mnist-mlp")
    parser.add_argument("--optimizer", action="append", help="default: sgd-sgdn and adam-adam")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument(
        "--seeds", type=int, default=6, help="different seeds, so orders of the data, in a pack"
    )
    parser.add_argument("--granularity", default="group")
    parser.add_argument("--iterations", type=int, default=4000, help="trial-iterations of a measurement")
    parser.add_argument("--least", type=int, default=20, help="iterations of a member, at least")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--capture", action="store_true", help="on a GPU: an iteration is a CUDA graph")
    parser.add_argument(
        "--tune", type=int, metavar="TRIALS", help="also one process per trial under Ray Tune"
    )
    parser.add_argument("--figure", type=Path, help="draw how time and memory grow")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads, batch {options.batch_size}"
    )
    tables = {}
    names = options.workload or ["mnist-logreg", "mnist-mlp"]
    for name, optimizer in itertools.product(names, options.optimizer or ["sgd-sgdn", "adam-adam"]):
        tables[f"{name} {optimizer}"] = table(options, name, optimizer)
        if options.tune:
            speed = tune(options, name, optimizer, options.tune)
            print(
                f"{options.tune} trials, a process each under Ray Tune with MLflow: {speed:.0f} it/s in all"
            )
    if options.figure:
        draw(tables, options.figure)


if __name__ == "__main__":
    main()
