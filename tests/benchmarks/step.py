"""What a step of every optimizer costs, beside torch's on the same parameters in the same run.

    python tests/benchmarks/step.py [--parameters vgg16-bn --op adam --threads 2 ...]
    python tests/benchmarks/step.py --against ../other-checkout --cpu-time --threads 1 --parameters logreg

Needs torch alone. With ``--against`` the optimizers of another checkout take part, marked "before", and a
column has the time over theirs. Contenders take turns, so that a busy machine slows all of them; figures are
medians over the turns. Prints Markdown tables, one for each set of parameters, device and number of threads:

ms           per step
ns/param     per step and parameter
GB/s         the least traffic of the step's arithmetic, over its time
× fused      time over that of torch's fused optimizer with the same op
× floor      time over that of torch's fused optimizer, scaled by the least traffic of both: 1 is memory-bound
× before     time over that of the same optimizer in the other checkout
state        what the optimizer keeps between steps, in sizes of the parameters
transient    what a step allocates at most meanwhile, in sizes of the parameters

"loop" is a plain transcription of hypergradient code as it is commonly published: tensor by tensor, the
learning rate a number of Python's.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

import hypergrad
from hypergrad import kernels

clock = time.perf_counter
OPS = ("sgd", "sgdn", "adam")
LOPS = ("sgd", "sgdn", "adam")
LEARNED_WAYS = {
    "default": {},
    "cosine": {"rule": "cosine"},
    "no kernels": {"fused": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
# Least reads + writes of a parameter-sized tensor per step: with a fixed learning rate, with a learned one.
TRAFFIC = {"sgd": (3, 6), "sgdn": (5, 8), "adam": (7, 9)}


def vgg16_bn() -> list[tuple[int, ...]]:
    """VGG16 with batch normalisation for ten classes of 32 × 32 pictures."""
    shapes: list[tuple[int, ...]] = []
    channels = 3
    for width in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512):
        shapes += [(width, channels, 3, 3), (width,), (width,), (width,)]
        channels = width
    return [*shapes, (512, 512), (512,), (512, 512), (512,), (10, 512), (10,)]


def transformer(layers: int = 14, width: int = 768) -> list[tuple[int, ...]]:
    """Blocks of a decoder, biases and norms included."""
    block = [
        *((width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,)),
        *((width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,)),
    ]
    return block * layers


PARAMETERS = {
    "logreg": [(10, 1000), (10,)],
    "small-mlp": [(64, 100), (64,), (32, 64), (32,), (10, 32), (10,)],
    "mlp": [(1000, 784), (1000,), (1000, 1000), (1000,), (10, 1000), (10,)],
    "vgg16-bn": vgg16_bn(),
    "transformer": transformer(),
}


class Loop:
    """Hypergradient descent as commonly written, with weight decay, for op ``op`` and lop ``lop``."""

    def __init__(self, params: list[Tensor], op: str, lop: str, lr: float, hypergrad_lr: float) -> None:
        self.params, self.op, self.lop, self.lr, self.hypergrad_lr = params, op, lop, lr, hypergrad_lr
        self.state: dict[Tensor, dict] = {param: {} for param in params}

    @torch.no_grad()
    def step(self) -> None:
        for param in self.params:
            grad, state = param.grad, self.state[param]
            if not state:
                state["step"] = 0
                state["direction"] = torch.zeros_like(param)
                if self.op != "sgd":
                    state["first"] = torch.zeros_like(param)
                if self.op == "adam":
                    state["second"] = torch.zeros_like(param)
                state["h"] = [0.0, 0.0]
            state["step"] += 1
            h = -torch.dot(grad.view(-1), state["direction"].view(-1)).item()
            self.lr -= self.hypergrad_lr * self.rule(h, state)
            if self.op == "sgd":
                direction = grad.clone()
            elif self.op == "sgdn":
                state["first"].mul_(0.9).add_(grad)
                direction = grad.add(state["first"], alpha=0.9)
            else:
                state["first"].mul_(0.9).add_(grad, alpha=0.1)
                state["second"].mul_(0.999).addcmul_(grad, grad, value=0.001)
                root = (state["second"] / (1 - 0.999 ** state["step"])).sqrt().add_(1e-8)
                direction = state["first"] / (1 - 0.9 ** state["step"]) / root
            state["direction"] = direction
            param.add_(direction, alpha=-self.lr)

    def rule(self, h: float, state: dict) -> float:
        first, second = state["h"]
        if self.lop == "sgdn":
            state["h"] = [0.9 * first + h, 0.0]
            return h + 0.9 * state["h"][0]
        if self.lop == "adam":
            first, second = state["h"] = [0.9 * first + 0.1 * h, 0.999 * second + 0.001 * h * h]
            step = state["step"]
            return first / (1 - 0.9**step) / (math.sqrt(second / (1 - 0.999**step)) + 1e-8)
        return h


def package(checkout: Path) -> ModuleType:
    """Import the ``hypergrad`` of another checkout beside this one."""

    def take_out() -> dict[str, ModuleType]:
        names = [name for name in sys.modules if name.partition(".")[0] == "hypergrad"]
        return {name: sys.modules.pop(name) for name in names}

    ours = take_out()
    sys.path.insert(0, str(checkout))
    try:
        other = importlib.import_module("hypergrad")
    finally:
        sys.path.remove(str(checkout))
        take_out()
        sys.modules.update(ours)
    if Path(other.__file__).parents[1] != checkout.resolve():
        raise SystemExit(f"{checkout} has no hypergrad")
    return other


def contenders(
    op: str, params: list[Tensor], lops: list[str], before: ModuleType | None
) -> dict[tuple[str, str], Callable[[], object]]:
    """Make one optimizer per name and path; learning rates are tiny, since all move the same parameters."""
    made: dict[tuple[str, str], Callable[[], object]] = {}
    packages = {"": hypergrad} if before is None else {"before, ": before, "": hypergrad}
    ways = {"for-loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    nesterov = {"momentum": 0.9, "nesterov": True} if op == "sgdn" else {}
    plain = torch.optim.Adam if op == "adam" else torch.optim.SGD
    for way, options in ways.items():
        made[f"torch {op}", way] = plain(params, lr=1e-9, **nesterov, **options)
    for way in ({}, {"fused": True}):
        for mark, module in packages.items():
            made[op, mark + next(iter(way), "default")] = module.create(op, params, lr=1e-9, **way)
    for lop in lops:
        name = f"{op}-{lop}"
        if lop in LOPS:
            made[name, "loop"] = Loop(params, op, lop, 1e-9, 1e-30)
        for way, options in LEARNED_WAYS.items():
            for mark, module in packages.items():
                made[name, mark + way] = module.create(name, params, lr=1e-9, hypergrad_lr=1e-30, **options)
    return made


def measure(steps: list[Callable[[], object]], device: torch.device, turns: int, least: float) -> list[float]:
    """Return the median seconds of a step of each, over ``turns`` turns of at least ``least`` seconds."""
    counts = []
    for step in steps:
        step()
        seconds = timed(step, 1, device)
        counts.append(max(1, math.ceil(least / seconds)))
    seconds = [
        [timed(step, count, device) for step, count in zip(steps, counts, strict=True)] for _ in range(turns)
    ]
    return [statistics.median(column) for column in zip(*seconds, strict=True)]


def timed(step: Callable[[], object], count: int, device: torch.device) -> float:
    synchronize(device)
    started = clock()
    for _ in range(count):
        step()
    synchronize(device)
    return (clock() - started) / count


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def state_bytes(optimizer: object) -> int:
    """Bytes of the tensors that the optimizer keeps, each once."""
    found: dict[int, int] = {}
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def transient_bytes(step: Callable[[], object], device: torch.device) -> float:
    """Most that a step allocates at one time: exact on a GPU; on a CPU the growth of resident memory."""
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return math.nan
    before = resident("VmRSS")
    step()
    return max(0, resident("VmHWM") - before)


def resident(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def table(name: str, op: str, device: torch.device, options: argparse.Namespace) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.randn(shape, generator=generator).to(device).requires_grad_() for shape in PARAMETERS[name]
    ]
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator).to(device)
    count = sum(param.numel() for param in params)
    # A hundred million parameters with every optimizer's state at once would need 20 GB.
    lops = options.lop or list(LOPS if count < 5e7 else LOPS[-1:])
    made = contenders(op, params, lops, options.before)
    seconds = measure([one.step for one in made.values()], device, options.turns, options.least_ms / 1e3)
    by_name = dict(zip(made, seconds, strict=True))
    fused = by_name[f"torch {op}", "fused"]
    rows = []
    for ((label, way), optimizer), taken in zip(made.items(), seconds, strict=True):
        traffic = TRAFFIC[op]["-" in label]
        floor = fused * traffic / TRAFFIC[op][0]
        size = 4 * count
        transient = transient_bytes(optimizer.step, device) / size if size > 1e6 else math.nan
        cells = [label, way, f"{taken * 1e3:.3f}", f"{taken * 1e9 / count:.2f}"]
        cells += [f"{traffic * size / taken / 1e9:.1f}", f"{taken / fused:.2f}", f"{taken / floor:.2f}"]
        cells += [f"{state_bytes(optimizer) / size:.2f}", f"{transient:.2f}"]
        if options.before is not None:
            before = by_name.get((label, f"before, {way}"))
            cells.append(f"{taken / before:.2f}" if before else "")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", action="append", choices=PARAMETERS, help="default: all")
    parser.add_argument("--op", action="append", choices=OPS, help="default: all")
    parser.add_argument("--lop", action="append", help="default: sgd, sgdn, adam (adam for the transformer)")
    parser.add_argument("--threads", action="append", type=int, help="of the CPU; default: 1 and all")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--least-ms", type=float, default=5.0, help="milliseconds of a turn, at least")
    parser.add_argument("--device", action="append", help="default: cpu, and cuda where there is one")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count processor time: for one thread on a busy machine"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    options = parser.parse_args()
    options.before = package(options.against) if options.against else None
    if options.cpu_time:
        clock = time.process_time
    devices = options.device or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
    all_threads = torch.get_num_threads()
    kind = "processor time" if options.cpu_time else "time"
    print(f"torch {torch.__version__}, float32, {kind}, medians of {options.turns} turns")
    for device in map(torch.device, devices):
        reason = kernels.why_not(device)
        print(f"\n{device.type}, kernels: {reason or 'in use unless fused=False or foreach is given'}")
        if device.type == "cuda":
            print(torch.cuda.get_device_name(device))
        for name in options.parameters or PARAMETERS:
            shapes = PARAMETERS[name]
            count = sum(map(math.prod, shapes))
            for threads in (
                sorted(set(options.threads or [1, all_threads])) if device.type == "cpu" else [None]
            ):
                if threads is not None:
                    torch.set_num_threads(threads)
                where = device.type if threads is None else f"{device.type}, threads: {threads}"
                print(f"\n### {name}: {count:,} parameters in {len(shapes)} tensors, {where}\n")
                columns = ["optimizer", "path", "ms", "ns/param", "GB/s", "× fused", "× floor"]
                columns += ["state", "transient", *(["× before"] if options.before else [])]
                print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
                for op in options.op or OPS:
                    print("\n".join(table(name, op, device, options)), flush=True)


if __name__ == "__main__":
    main()
