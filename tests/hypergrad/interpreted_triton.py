"""Triton's kernels in Triton's interpreter, on tensors of the CPU.

``test_triton.py`` runs this file in a process of its own, where TRITON_INTERPRET is set before Triton is
imported. The quick cases run with all other tests; ``make test-triton`` runs all.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hypergrad
from hypergrad import _device_step, directions, functional, rates
from hypergrad.kernels import gpu, gpu_launcher, triton_alpha, triton_passes
from hypergrad.reference import Reference
from hypergrad.stacked import Stacked

from .rules import ONE_STEP, RULES

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by test_triton.py", allow_module_level=True)

GRANULARITIES = ("group", "tensor", "released")
MISSING = {0: {1}, 2: {0, 2}, 3: {2}, 4: {3}}
DECOUPLED = {"weight_decay": 0.1, "decoupled_weight_decay": True}
DEFAULT = {"rule": "cosine", "hypergrad_lr": 0.03}
HELD = {"trace_decay": 0.9, "max_relative_step": 0.004, "first_relative_step": (1e-4, 1e-3)}


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """The kernels on the CPU, with tiles so small that a tensor has several; returns the steps they took."""
    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    monkeypatch.setattr(gpu_launcher, "BLOCK", 8)
    monkeypatch.setattr(gpu_launcher, "BLOCKS", 2)
    monkeypatch.setattr(gpu_launcher, "CHUNK", 2)
    monkeypatch.setattr(gpu_launcher, "RELEASED_CHUNK", 2)
    taken: list[gpu.Spec] = []
    take = gpu_launcher.Launcher.take

    def noted(self, given, spec, *rest):
        take(self, given, spec, *rest)
        taken.append(spec)

    monkeypatch.setattr(gpu_launcher.Launcher, "take", noted)
    return taken


def is_close(a: Any, b: Any, tolerance: float) -> bool:
    a, b = (torch.as_tensor(value).detach().double() for value in (a, b))
    return not b.numel() or bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-30))


def everything(params, optimizer) -> list[torch.Tensor]:
    group = optimizer.param_groups[0]
    learned = [group["lr"], group["hypergradient"], *group["lop_state"].values()]
    states = [value for param in params for value in optimizer.state[param].values()]
    return [*params, *learned, *group.get("moves", {}).values(), *states]


def check(problem, taken, name, steps=5, missing=None, schedule=False, bound=1e-11, **options):
    """Compare with the reference, and the state with that of the same optimizer without kernels."""
    alpha0, beta = problem.rates(name)
    options = {"lr": alpha0, "hypergrad_lr": beta} | options
    nesterov = options.get("nesterov", True)
    here, there = problem.initial(), problem.initial()
    ours = hypergrad.create(name, here, fused=True, **options)
    torchs = hypergrad.create(name, there, fused=False, **options)
    names = {"lr_bounds": "bounds", "decoupled_weight_decay": "decoupled"}
    known = {names.get(key, key): value for key, value in options.items()}
    del known["lr"], known["hypergrad_lr"]
    sign = -1 if known.pop("maximize", False) else 1
    oracle = Reference(name, here, options["lr"], options["hypergrad_lr"], **known | {"nesterov": nesterov})
    factors = [torch.optim.lr_scheduler.LambdaLR(o.schedule, lambda t: 1 / (t + 1)) for o in (ours, torchs)]
    if not schedule:
        factors = []
        for optimizer in (ours, torchs):
            del optimizer.param_groups[0]["lr_factor"], optimizer.param_groups[0]["initial_lr_factor"]
            optimizer.param_groups[0].pop("moves", None)
    for step in range(steps):
        gone = (missing or {}).get(step, set())
        gradients = problem.gradients(oracle.theta, step)
        oracle.step(
            [None if i in gone else sign * grad for i, grad in enumerate(gradients)],
            1 / (step + 1) if schedule else 1.0,
        )
        for optimizer, params in ((ours, here), (torchs, there)):
            for index, grad in enumerate(problem.gradients(params, step)):
                params[index].grad = None if index in gone else grad
            optimizer.step()
        for factor in factors:
            factor.step()
    assert len(taken) == steps
    for param, theta in zip(here, oracle.theta, strict=True):
        assert is_close(param, theta, bound)
    by_tensor = options.get("granularity") == "tensor"
    alphas, slopes = torch.stack(oracle.alpha), torch.stack(oracle.h)
    assert is_close(ours.learning_rates[0], alphas if by_tensor else alphas[-1], bound)
    assert is_close(ours.hypergradients[0], slopes if by_tensor else slopes.sum(), 100 * bound)
    for mine, theirs in zip(everything(here, ours), everything(there, torchs), strict=True):
        assert is_close(mine, theirs, 100 * bound)


def cases(quick, every):
    """Parameters of a test: all but the quick ones are marked."""
    quick = list(quick)
    return [
        pytest.param(*case, marks=() if case in quick else pytest.mark.triton)
        for case in dict.fromkeys([*quick, *every])
    ]


OPS = ("sgd", "sgdn", "adam")


@pytest.mark.parametrize(
    ("name", "granularity"),
    cases(
        [("sgd-sgd", "group"), ("sgdn-adam", "tensor"), ("adam-sgdn", "released"), ("adam-adam", "group")],
        [(f"{op}-{lop}", g) for op, lop, g in itertools.product(OPS, RULES, GRANULARITIES)],
    ),
)
def test_ops_and_lops(problem, taken, name, granularity):
    check(problem, taken, name, granularity=granularity, weight_decay=0.1)


VARIANTS = {
    "heavy ball": {"nesterov": False, "maximize": True},
    "decoupled": DECOUPLED,
    "schedule": {"schedule": True},
    "missing": {"missing": MISSING},
    "bounds": {"lr_bounds": (0.00499, 0.00501), "missing": MISSING},
    "all": {"schedule": True, "missing": MISSING, "lr_bounds": (0.0049, 0.0051), **DECOUPLED},
}


@pytest.mark.parametrize(
    ("name", "granularity", "variant"),
    cases(
        [("adam-sgd", "group", "all"), ("sgdn-sgdn", "tensor", "all"), ("sgdn-sgd", "released", "bounds")],
        itertools.product(("sgdn-sgdn", "adam-adam"), GRANULARITIES, VARIANTS),
    ),
)
def test_options(problem, taken, name, granularity, variant):
    if variant == "heavy ball" and name.startswith("adam"):
        name = "sgdn-adam"
    check(problem, taken, name, granularity=granularity, **VARIANTS[variant])


BETAS = {"multiplicative": 0.3, "additive-cosine": 1e-4, "cosine": 0.02}


@pytest.mark.parametrize(
    ("name", "granularity", "rule", "variant"),
    cases(
        [
            ("adam-adam", "released", "multiplicative", "all"),
            ("sgd-lion", "tensor", "additive-cosine", "missing"),
        ],
        itertools.product(
            ("sgd-sgd", "sgdn-adagrad", "adam-adam"), GRANULARITIES, BETAS, ("missing", "bounds", "all")
        ),
    ),
)
def test_rules(problem, taken, name, granularity, rule, variant):
    options = VARIANTS[variant] | ONE_STEP | {"rule": rule, "hypergrad_lr": BETAS[rule], "lr": 0.005}
    check(problem, taken, name, granularity=granularity, **options)


TRACED = {
    "default": DEFAULT | {"trace_decay": 0.99, "max_relative_step": 0.1, "first_relative_step": (1e-2, 3e-2)},
    "held": {"rule": "cosine", "hypergrad_lr": 0.03, **HELD},
    "additive": {"rule": "additive", **HELD},
    "trace only": {"rule": "multiplicative", "hypergrad_lr": 0.1, "trace_decay": 0.9},
}


@pytest.mark.parametrize(
    ("name", "granularity", "kind", "variant"),
    cases(
        [
            ("adam-sgdn", "group", "default", "decoupled"),
            ("adam-sgdn", "group", "held", "all"),
            ("sgdn-sgdn", "tensor", "held", "missing"),
            ("sgd-sgdn", "group", "additive", "missing"),
        ],
        itertools.product(
            ("sgd-sgdn", "sgdn-sgdn", "adam-sgdn"),
            ("group", "tensor"),
            TRACED,
            ("decoupled", "missing", "all"),
        ),
    ),
)
def test_traced_steps(problem, taken, name, granularity, kind, variant):
    options = VARIANTS[variant]
    if "lr_bounds" in options:
        options = options | {"lr_bounds": (1e-3, 0.04)}
    check(problem, taken, name, granularity=granularity, **options, **TRACED[kind])
    assert all(spec.traced for spec in taken)


def test_what_users_get(problem, taken):
    """``AdamW`` as it is, against itself without kernels."""
    runs = []
    for fused in (True, False):
        params = problem.initial()
        optimizer = hypergrad.AdamW(params, fused=fused)
        problem.train(optimizer, params, range(6), {3: {1}})
        runs.append(everything(params, optimizer))
    assert len(taken) == 6
    for mine, theirs in zip(*runs, strict=True):
        assert is_close(mine, theirs, 1e-10)


# ---- Members ----


def members(problem, name, number, steps, options):
    """Return a pack after some steps, and its members alone without kernels."""
    alpha0, beta = problem.rates(name)

    def made(member, params, **more):
        own = {"lr": alpha0 * (1 + 0.2 * member), "hypergrad_lr": beta * (1 + 0.3 * member)}
        return hypergrad.create(name, params, **own | options | more)

    starts = [[param.detach() * (1 + 0.1 * n) for param in problem.initial()] for n in range(number)]
    alone = [[param.clone().requires_grad_() for param in start] for start in starts]
    own = [made(n, params, fused=False) for n, params in enumerate(alone)]
    pack = Stacked(
        [made(n, [param.clone().requires_grad_() for param in start]) for n, start in enumerate(starts)],
        [torch.stack(tensors) for tensors in zip(*starts, strict=True)],
    )
    for step in range(steps):
        grads = []
        for n, params in enumerate(alone):
            problem.train(own[n], params, range(step + n, step + n + 1))
            grads.append(problem.gradients([param[n] for param in pack.params], step + n))
        pack.step([torch.stack(tensors) for tensors in zip(*grads, strict=True)])
    return pack, alone, own


@pytest.mark.parametrize(
    ("name", "granularity", "kind"),
    cases(
        [
            ("adam-adam", "tensor", "decoupled"),
            ("sgdn-sgdn", "group", "default"),
            ("sgd-sgd", "released", "plain"),
        ],
        [
            (name, granularity, kind)
            for name, granularity, kind in itertools.product(
                ("sgd-sgd", "sgdn-sgdn", "adam-adam"), GRANULARITIES, ("plain", "decoupled", "default")
            )
            if (granularity, kind) != ("released", "default")
        ],
    ),
)
def test_members_move_as_they_would_alone(problem, taken, monkeypatch, name, granularity, kind):
    monkeypatch.setattr(gpu, "ON_BY_DEFAULT", True)
    options = {"plain": {}, "decoupled": DECOUPLED, "default": DEFAULT | DECOUPLED}[kind]
    pack, alone, own = members(problem, name, 3, 4, options | {"granularity": granularity})
    assert [spec.members for spec in taken] == [3] * 4
    for n, (params, optimizer) in enumerate(zip(alone, own, strict=True)):
        assert is_close(pack.alpha[..., n], optimizer.learning_rates[0], 1e-12)
        assert is_close(pack.hypergradient[..., n], optimizer.hypergradients[0], 1e-10)
        for stacked, param in zip(pack.params, params, strict=True):
            assert is_close(stacked[n], param, 1e-12)
        state = pack.state_dict(n)["state"]
        for index, param in enumerate(params):
            for key, value in optimizer.state[param].items():
                assert is_close(state[index][key], value, 1e-11)


# ---- Mixed precision ----


@pytest.mark.parametrize(
    ("name", "kind"),
    cases(
        [("adam-adam", "plain"), ("sgdn-sgdn", "default")],
        itertools.product(("sgd-sgd", "sgdn-sgdn", "adam-adam"), ("plain", "decoupled", "default")),
    ),
)
def test_an_overflow_changes_nothing(problem, taken, name, kind):
    """With what ``GradScaler`` sets: the scale divides gradients, and a step with ``found_inf`` is none."""
    options = {"plain": {}, "decoupled": DECOUPLED, "default": DEFAULT}[kind]
    alpha0, beta = problem.rates(name)
    scale, runs = 1024.0, []
    for scaled in (True, False):
        params = problem.initial()
        optimizer = hypergrad.create(
            name, params, fused=scaled, **{"lr": alpha0, "hypergrad_lr": beta} | options
        )
        for step in range(5):
            for param, grad in zip(params, problem.gradients(params, step), strict=True):
                param.grad = grad * scale if scaled else grad
            if not scaled:
                if step != 2:
                    optimizer.step()
                continue
            optimizer.grad_scale = torch.tensor(scale)
            optimizer.found_inf = torch.tensor(float(step == 2))
            before = [value.clone() for value in everything(params, optimizer)]
            if step == 2:
                params[1].grad[0] = torch.inf
            optimizer.step()
            if step == 2:
                assert all(map(torch.equal, everything(params, optimizer), before))
        runs.append([*params, *optimizer.learning_rates, *optimizer.hypergradients])
    assert len(taken) == 5
    for mine, theirs in zip(*runs, strict=True):
        assert is_close(mine, theirs, 1e-9)


@pytest.mark.parametrize(
    ("name", "dtype", "kind"),
    cases(
        [("adam-adam", torch.bfloat16, "default"), ("sgdn-sgdn", torch.float32, "plain")],
        itertools.product(
            ("sgd-sgd", "sgdn-sgdn", "adam-adam"),
            (torch.bfloat16, torch.float16, torch.float32),
            ("plain", "default"),
        ),
    ),
)
def test_dtypes(problem, taken, name, dtype, kind):
    """A step computes in float32 and rounds what it stores, also the moments that the second pass reads."""
    alpha0, beta = problem.rates(name)
    options = {"lr": alpha0, "hypergrad_lr": beta} | (DEFAULT if kind == "default" else {})
    if name == "adam-adam":
        options["eps"] = 1e-3  # in float16 small second moments are 0
    params, wide = problem.initial(dtype), problem.initial()
    ours = hypergrad.create(name, params, fused=True, **options)
    theirs = hypergrad.create(name, wide, fused=False, **options)
    # Half a unit in the last place of what is stored, and as much of θ before.
    bound = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    for step in range(1, 4):
        grads = [grad.to(dtype) for grad in problem.gradients(wide, step)]
        with torch.no_grad():
            for param, other, grad in zip(params, wide, grads, strict=True):
                param.grad, other.grad = grad, grad.double()
                other.copy_(param)
                for key, value in ours.state[param].items():
                    theirs.state[other][key].copy_(value)
        theirs.param_groups[0]["lr"].copy_(ours.param_groups[0]["lr"])
        for key, value in ours.param_groups[0]["lop_state"].items():
            theirs.param_groups[0]["lop_state"][key].copy_(value)
        before = [other.detach().clone() for other in wide]
        ours.step()
        theirs.step()
        alpha = theirs.learning_rates[0]
        assert ours.learning_rates[0].dtype == torch.float32
        assert is_close(ours.learning_rates[0], alpha, 1e-5)
        for mine, other, start in zip(params, wide, before, strict=True):
            expected = other.detach()
            if name == "adam-adam":
                m, v = (theirs.state[other][key].to(dtype).double() for key in ("exp_avg", "exp_avg_sq"))
                root = (v / (1 - 0.999**step)).sqrt() + 1e-3
                expected = start - alpha * m / (1 - 0.9**step) / root
            assert mine.dtype == dtype
            assert is_close(mine, expected, bound)
    assert len(taken) == 3


# ---- Without waiting, without allocating, with the same bits ----


class Operations(TorchDispatchMode):
    """Notes every operation of torch."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace != "profiler":  # torch.optim names its steps
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Stub:
    """A kernel that does nothing but count."""

    launches = 0

    def __getitem__(self, grid):
        def launch(*args, **settings):
            Stub.launches += 1

        return launch

    def warmup(self, *args, **settings):
        pass


def stub_kernels(monkeypatch):
    for module, names in (
        (triton_passes, ("first_pass", "second_pass")),
        (triton_alpha, ("sum_rows", "learn", "learn_released")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Stub())


@pytest.mark.parametrize("kind", ["plain", "everything", "default"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_step_is_three_launches_and_no_operation_of_torch(
    problem, taken, monkeypatch, name, granularity, kind
):
    """So it waits for nothing and allocates nothing, and a CUDA graph can capture it as it is."""
    if (granularity, kind) == ("released", "default"):
        pytest.skip("no trace")
    stub_kernels(monkeypatch)
    options = {
        "plain": {},
        "everything": {"rule": "cosine", **ONE_STEP, **DECOUPLED, "lr_bounds": (1e-6, 1.0)},
        "default": DEFAULT | DECOUPLED,
    }[kind]
    params = problem.initial()
    optimizer = hypergrad.create(name, params, fused=True, granularity=granularity, **options)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()  # makes the state
    optimizer.step()
    Stub.launches = 0
    with Operations() as operations:
        optimizer.step()
    assert Stub.launches == (4 if granularity == "released" else 3)
    assert operations.names == []
    assert len(taken) == 3


def test_gradients_at_other_addresses_cost_one_copy(problem, monkeypatch):
    stub_kernels(monkeypatch)
    params = problem.initial()
    optimizer = hypergrad.create("adam-adam", params, fused=True)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    optimizer.step()
    others = [torch.zeros_like(param) for param in params]
    for param, other in zip(params, others, strict=True):
        param.grad = other
    with Operations() as operations:
        optimizer.step()
    assert sum("copy_" in name for name in operations.names) == 1
    assert not any("item" in name or "local_scalar" in name for name in operations.names)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_the_same_bits_twice(problem, granularity):
    ends = []
    for _ in range(2):
        params = problem.initial(torch.float32)
        optimizer = hypergrad.create("adam-adam", params, fused=True, granularity=granularity)
        problem.train(optimizer, params, range(3))
        ends.append(everything(params, optimizer))
    assert all(map(torch.equal, *ends))


def test_large_tensors_and_odd_ones(monkeypatch):
    """With the sizes of the GPU: whole tiles, parts of them, tensors of one element and of none."""
    monkeypatch.undo()
    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    shapes = [(129, 65), (0,), (3, 0, 5), (), (4096,), (4095,), (7,)]
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    states = [functional.init(params, rates.Adam(), lr=0.1, granularity="tensor") for _ in range(2)]
    twins = [param.clone() for param in params]
    for _ in range(3):
        grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for each, state, fused in ((params, states[0], True), (twins, states[1], False)):
            options = functional.StepOptions(hypergrad_lr=1e-3, granularity="tensor", fused=fused)
            functional.update(each, grads, state, directions.Adam(), rates.Adam(), options)
    assert isinstance(states[0].kernel, gpu_launcher.Launcher)
    assert is_close(states[0].alpha, states[1].alpha, 1e-12)
    for param, twin in zip(params, twins, strict=True):
        assert is_close(param, twin, 1e-12)


@pytest.mark.parametrize("layout", ["channels_last", "gradient only"])
def test_layouts(layout):
    generator = torch.Generator().manual_seed(0)

    def new():
        return torch.randn(4, 3, 5, 2, generator=generator, dtype=torch.float64)

    start, grads, ends = new(), [new() for _ in range(3)], []
    for arranged in (True, False):
        param = start.clone()
        if arranged and layout == "channels_last":
            param = param.contiguous(memory_format=torch.channels_last)
        param.requires_grad_()
        optimizer = hypergrad.create("adam-adam", [param], fused=arranged)
        for grad in grads:
            param.grad = grad.transpose(0, 3).contiguous().transpose(0, 3) if arranged else grad.clone()
            optimizer.step()
        ends.append(param)
    assert is_close(*ends, 1e-12)


# ---- Choosing ----


def suited(params, **changes):
    """The arguments of ``why_not`` for a step that the kernels take, but for ``changes``."""
    rate = changes.pop("rate", rates.Adam())
    state = functional.init(params, rate, lr=0.1)
    given = {
        "params": params,
        "state": state,
        "direction": directions.Adam(),
        "rate": rate,
        "options": functional.StepOptions(hypergrad_lr=0.1),
    }
    return given | changes


class Mine(rates.SGD):
    """May have an update of its own."""


WRONG = {
    "an op": (lambda p: suited(p, direction=directions.Muon()), "none for Muon"),
    "a lop": (lambda p: suited(p, rate=Mine()), "none for the lop Mine"),
    "a dtype": (lambda p: suited([torch.zeros(3, dtype=torch.complex64)]), "none for torch.complex64"),
    "two dtypes": (lambda p: suited([*p, torch.zeros(3, dtype=torch.float64)]), "one device and dtype"),
    "gaps": (lambda p: suited([torch.zeros(3, 4)[:, :2]]), "without gaps"),
    "β elsewhere": (
        lambda p: suited(p, options=functional.StepOptions(torch.zeros((), device="meta"))),
        "on the parameters' device",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_why_not(kind):
    make, expected = WRONG[kind]
    params = [torch.zeros(3)]
    assert _device_step.why_not(**suited(params)) is None
    assert expected in _device_step.why_not(**make(params))


def test_what_the_kernels_do_not_take_goes_through_torch(problem, taken):
    params = problem.initial()
    optimizer = hypergrad.create("muon-sgdn", params, lr=0.01)
    problem.train(optimizer, params, range(2))
    assert not taken


def test_kernels_that_do_not_compile_leave_the_step_to_torch(problem, taken, monkeypatch):
    def broken(*args, **settings):
        raise RuntimeError("no ptxas\nand a long trace")

    monkeypatch.setattr(gpu, "FAILED", {})
    monkeypatch.setattr(Stub, "warmup", broken)
    monkeypatch.setattr(triton_alpha, "learn", Stub())
    ends = []
    for fused in (True, False):
        params = problem.initial()
        optimizer = hypergrad.create("sgdn-sgd", params, lr=0.01, hypergrad_lr=1e-5, fused=fused)
        problem.train(optimizer, params, range(3))
        ends.append(params)
    assert not taken
    assert gpu.why_not_on("cpu") == "Triton could not compile them: no ptxas"
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# ---- torch.compile ----


@pytest.mark.parametrize(
    ("name", "granularity", "kind"),
    cases(
        [("adam-sgdn", "group", "default")],
        [
            ("sgd-sgd", "group", "plain"),
            ("sgdn-sgdn", "released", "decoupled"),
            ("adam-adam", "tensor", "decoupled"),
            ("adam-adam", "group", "plain"),
        ],
    ),
)
def test_a_compiled_step_calls_the_kernels(problem, taken, name, granularity, kind):
    options = {"plain": {}, "decoupled": DECOUPLED, "default": DEFAULT}[kind] | {"granularity": granularity}
    torch._dynamo.reset()

    def run(compiled):
        params = problem.initial()
        optimizer = hypergrad.create(name, params, fused=compiled, lr=0.01, **options)
        step = optimizer.step
        if compiled:
            step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="aot_eager")
        for index in range(4):
            for param, grad in zip(params, problem.gradients(params, index), strict=True):
                param.grad = grad
            step()
        return everything(params, optimizer)

    compiled, eager = run(True), run(False)
    assert len(taken) == 4
    for mine, theirs in zip(compiled, eager, strict=True):
        assert is_close(mine, theirs, 1e-10)
