"""Triton's kernels compiled ahead of time: registers, spills and the width of loads, without a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import hypergrad

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from hypergrad.kernels import gpu, gpu_launcher, triton_alpha, triton_numbers, triton_passes  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
if not (TOOLS / "ptxas").exists():
    pytest.skip("needs the ptxas of Triton's wheel", allow_module_level=True)

POINTERS = {
    "*i64": ("addresses", "sizes"),
    "*i32": ("tiles", "starts", "places", "row_of"),
    "*fp64": ("numbers", "sums", "row_sums", "moved"),
    "*fp32": (
        *("alpha", "h", "lop_first", "lop_second", "lop_count", "gains", "decays"),
        *("schedule", "beta", "grad_scale", "found_inf"),
    ),
}
TYPES = {name: kind for kind, names in POINTERS.items() for name in names}
TYPES |= dict.fromkeys(triton_numbers.COUNTS, "i32")
STATES = {"sgd": (), "sgdn": ("lop_first",), "adam": ("lop_first", "lop_second", "lop_count")}


class Compiled(NamedTuple):
    registers: int
    spilled: int
    """Bytes of local memory."""
    wide_loads: int
    wide_stores: int


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))


def compiled(kernel, capability, tmp_path, warps, absent=(), **constants) -> Compiled:
    """Compile a kernel as ``gpu.py`` launches it; ``absent`` names arguments that are ``None``."""
    signature, values, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants or name in absent:
            signature[name] = "constexpr"
            values[(index,)] = constants.get(name)
        else:
            signature[name] = TYPES[name]
            if TYPES[name].startswith("*"):
                attributes[(index,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(kernel, signature, values, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps, "enable_fp_fusion": True},
    )
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(made.asm["cubin"])
    usage = subprocess.run(
        [TOOLS / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True
    ).stdout
    registers, stack, local = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK", "LOCAL"))
    # 16 bytes: four of 32 bits or two of 64.
    loads, stores = (
        len(re.findall(rf"{op}\.global\S*\.(v4\.b32|v2\.b64)", made.asm["ptx"])) for op in ("ld", "st")
    )
    return Compiled(registers, stack + local, loads, stores)


ABSENT = ("grad_scale", "found_inf", "schedule", "beta", "gains")
EVERY_CAPABILITY = (80, 90, 100)


def elementwise(op, traced, dtype=tl.float32, **constants):
    return {
        "OP": op,
        "TRACED": traced,
        "COUPLED": False,
        "RESTING": False,
        "DTYPE": dtype,
        "COMPUTE": tl.float64 if dtype == tl.float64 else tl.float32,
        "BLOCK": gpu_launcher.BLOCK,
        "BLOCKS": gpu_launcher.BLOCKS,
    } | constants


def quick(op, traced, capability):
    return op == "adam" and (capability == 90 or traced)


CASES = [
    pytest.param(op, traced, capability, marks=() if quick(op, traced, capability) else pytest.mark.triton)
    for op in ("sgd", "heavy ball", "nesterov", "adam")
    for traced in (False, True)
    for capability in EVERY_CAPABILITY
]
# Parameter-sized tensors that a pass reads and writes, with and without a trace.
READS = {"sgd": (2, 3), "heavy ball": (2, 4), "nesterov": (3, 4), "adam": (3, 5)}
WRITES = {"sgd": (1, 0), "heavy ball": (1, 1), "nesterov": (2, 1), "adam": (2, 2)}
SECOND_READS = {"sgd": (2, 3), "heavy ball": (2, 3), "nesterov": (2, 4), "adam": (3, 4)}


@pytest.mark.parametrize(("op", "traced", "capability"), CASES)
def test_the_first_pass(tmp_path, op, traced, capability):
    given = elementwise(op, traced, NORMS=traced)
    made = compiled(triton_passes.first_pass, capability, tmp_path, 8, (*ABSENT, "decays"), **given)
    assert made.spilled == 0
    assert made.registers <= 128  # two blocks of 256 threads, or more, on a multiprocessor
    assert made.wide_loads >= READS[op][traced]
    assert made.wide_stores >= WRITES[op][traced]


@pytest.mark.parametrize(("op", "traced", "capability"), CASES)
def test_the_second_pass(tmp_path, op, traced, capability):
    made = compiled(triton_passes.second_pass, capability, tmp_path, 8, ABSENT, **elementwise(op, traced))
    assert made.spilled == 0
    assert made.registers <= 64  # four blocks
    assert made.wide_loads >= SECOND_READS[op][traced]
    assert made.wide_stores >= 1 + traced


@pytest.mark.triton
@pytest.mark.parametrize("capability", EVERY_CAPABILITY)
@pytest.mark.parametrize("dtype", [tl.bfloat16, tl.float16, tl.float64], ids=str)
def test_other_dtypes(tmp_path, dtype, capability):
    given = elementwise("adam", True, dtype, NORMS=True, RESTING=True, COUPLED=True)
    first = compiled(triton_passes.first_pass, capability, tmp_path, 8, ABSENT, **given)
    del given["NORMS"]
    second = compiled(triton_passes.second_pass, capability, tmp_path, 8, ABSENT, **given)
    # Of float64, which nobody trains in for speed, a few bytes may go to memory.
    assert first.spilled <= (32 if dtype == tl.float64 else 0)
    assert second.spilled == 0


@pytest.mark.parametrize(
    ("lop", "by_tensor", "traced", "capability"),
    [
        pytest.param(lop, by_tensor, traced, capability, marks=() if chosen else pytest.mark.triton)
        for lop, by_tensor, traced, chosen in (("sgdn", False, True, True), ("adam", True, False, False))
        for capability in EVERY_CAPABILITY
    ],
)
def test_learning(tmp_path, lop, by_tensor, traced, capability):
    absent = {"lop_first", "lop_second", "lop_count"} - {*STATES[lop]}
    made = compiled(
        triton_alpha.learn,
        capability,
        tmp_path,
        8,
        (*ABSENT, "decays", *absent),
        LOP=lop,
        BY_TENSOR=by_tensor,
        TRACED=traced,
        NORMS=traced,
        NORMALIZE=traced,
        MULTIPLICATIVE=traced,
        HELD=traced,
        REMEMBER=False,
        COUNTED=True,
        CHUNK=gpu_launcher.CHUNK,
    )
    assert made.spilled == 0


@pytest.mark.triton
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("capability", EVERY_CAPABILITY)
def test_learning_once_per_tensor(tmp_path, capability, bounded):
    sums = compiled(
        triton_alpha.sum_rows, capability, tmp_path, 4, ABSENT, COLUMNS=3, CHUNK=gpu_launcher.CHUNK
    )
    made = compiled(
        triton_alpha.learn_released,
        capability,
        tmp_path,
        1,
        tuple(name for name in ABSENT if name != "gains"),
        LOP="adam",
        NORMALIZE=True,
        MULTIPLICATIVE=True,
        BOUNDED=bounded,
        REMEMBER=True,
        COUNTED=True,
        CHUNK=gpu_launcher.RELEASED_CHUNK,
    )
    assert sums.spilled == made.spilled == 0


class Driver:
    """As much of a GPU as compiling for it needs."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 99  # Triton keeps what it compiled by this number: not that of a real one

    def get_current_stream(self, device=None):
        return 0


STEPS = {
    "default": ("adam-sgdn", {"rule": "cosine", "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "released": ("adam-adam", {"granularity": "released", "lr_bounds": (1e-6, 1.0)}),
    "tensor": ("sgdn-sgdn", {"granularity": "tensor", "weight_decay": 0.1}),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "default" else pytest.mark.triton) for kind in STEPS]
)
def test_the_arguments_of_a_step_compile(monkeypatch, kind):
    """As ``gpu_launcher`` passes them, with a tensor that rests in the second step; nothing is launched."""
    compiled = []

    class Unlaunched:
        def __init__(self, kernel):
            self.kernel = kernel

        def warmup(self, *, grid, **arguments):
            assert self.kernel.warmup(grid=grid, **arguments).asm["cubin"]
            compiled.append(self.kernel.__name__)

        def __getitem__(self, grid):
            return lambda **arguments: None

    def launches(*given, real=gpu_launcher._launches):
        return [(Unlaunched(kernel), grid, arguments) for kernel, grid, arguments in real(*given)]

    monkeypatch.setattr(gpu_launcher, "_launches", launches)
    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    monkeypatch.setattr(gpu, "FAILED", {})
    name, options = STEPS[kind]
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    params = [torch.ones(5000, requires_grad=True), torch.ones(10, requires_grad=True)]
    optimizer = hypergrad.create(name, params, fused=True, **options)
    for step in range(2):
        for index, param in enumerate(params):
            param.grad = None if (step, index) == (1, 1) else torch.ones_like(param)
        optimizer.step()
    assert gpu.FAILED == {}
    between = ["sum_rows", "learn_released"] if kind == "released" else ["learn"]
    assert compiled[: len(between) + 2] == ["first_pass", *between, "second_pass"]


def test_no_kernel_uses_atomics():
    for module in (triton_passes, triton_alpha):
        assert "tl.atomic" not in Path(module.__file__).read_text()


def test_the_tools_are_there():
    """Else the tests above would find fault with the kernels."""
    assert shutil.which(TOOLS / "cuobjdump")
