"""The compiled kernels: against the reference, the same bits whatever the threads, and doing without them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch

import hypergrad
from hypergrad import directions, kernels, rates
from hypergrad.kernels import build, cpu_interface
from hypergrad.reference import Reference

from .rules import RULES


@pytest.fixture(autouse=True)
def _kernels(_own_folders):
    if reason := kernels.why_not():
        pytest.skip(f"no kernels here: {reason}")


DIRECTIONS = {
    "sgd": directions.SGD(),
    "sgdn": directions.Momentum(0.9, nesterov=True),
    "heavy ball": directions.Momentum(0.9, nesterov=False),
    "adam": directions.Adam(),
}
# An empty tensor, single elements, odd sizes, a block of cpu.c (16384) and its neighbours, several blocks.
SHAPES = [(0,), (), (1,), (7, 3), (16383,), (16384,), (16385,), (3, 0, 5), (129, 401), (100_003,)]


def make(shapes, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def states_for(direction, params):
    states = [{} for _ in params]
    for param, state in zip(params, states, strict=True):
        direction.init(param, state, learned=True)
    return states


def difference(a, b):
    a, b = torch.as_tensor(a).double().flatten(), torch.as_tensor(b).double().flatten()
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) if b.numel() else 0.0


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", DIRECTIONS)
def test_passes_equal_the_reference(kind, maximize, weight_decay, dtype, bound):
    direction, alpha = DIRECTIONS[kind], 0.01
    params = make(SHAPES, dtype)
    states = states_for(direction, params)
    sign = -1 if maximize else 1
    oracle = Reference(
        kind.replace("heavy ball", "sgdn"),
        params,
        alpha,
        weight_decay=weight_decay,
        nesterov=kind != "heavy ball",
        granularity="tensor",
    )
    for step in range(5):
        grads = make(SHAPES, dtype, seed=step + 1)
        before = [grad.clone() for grad in grads]
        kernel = kernels.choose(
            direction, params, grads, states, weight_decay=weight_decay, maximize=maximize
        )
        products = kernel.products()
        kernel.move(torch.tensor(alpha, dtype=dtype))
        oracle.step([sign * grad for grad in grads])
        assert all(map(torch.equal, grads, before))
        assert products.shape == (len(params),)
        assert products.dtype == dtype
        assert difference(-products, torch.stack(oracle.h)) <= bound
        for param, theta in zip(params, oracle.theta, strict=True):
            assert difference(param, theta) <= bound


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_norms_and_decoupled_decay(kind):
    """d = u + λθ with a λ of each tensor, and a move by an α of each, against torch on the same state."""
    direction, shapes = DIRECTIONS[kind], [(5, 7), (20_000,), (3,)]
    params, decays = make(shapes, torch.float64), torch.tensor([0.0, 0.2, 0.3], dtype=torch.float64)
    states = states_for(direction, params)
    alphas = torch.tensor([0.1, 0.2, 0.0], dtype=torch.float64)
    for step in range(3):
        grads = make(shapes, torch.float64, seed=step + 1)
        d = [u + c * p for u, c, p in zip(direction.previous(states), decays, params, strict=True)]
        expected = [
            torch.stack([(g * x).sum(), (g * g).sum(), (x * x).sum()]) for g, x in zip(grads, d, strict=True)
        ]
        copies = [{key: value.clone() for key, value in state.items()} for state in states]
        moved = [
            p - a * (u + 0.5 * p)
            for p, a, u in zip(params, alphas, direction.update(grads, copies), strict=True)
        ]
        kernel = kernels.choose(direction, params, grads, states)
        products = kernel.products(decays=decays, norms=True)
        kernel.move(alphas, decay=0.5)
        torch.testing.assert_close(products, torch.stack(expected), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(params, moved, rtol=1e-12, atol=1e-12)
        for state, copy in zip(states, copies, strict=True):
            for key, value in copy.items():
                torch.testing.assert_close(state[key], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_members_move_as_they_would_alone(kind):
    """With products and an α of their own, over tensors of no element, of one, of a block and of several."""
    direction, members = DIRECTIONS[kind], 3
    shapes = [(5, 7), (0,), (), (16384,), (40_000,)]
    params = make([(members, *shape) for shape in shapes], torch.float64)
    states = states_for(direction, params)
    alone = [[param[k].clone() for param in params] for k in range(members)]
    own = [states_for(direction, copies) for copies in alone]
    alphas = torch.rand(len(shapes), members, dtype=torch.float64)
    decays = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    kernel = None
    for step in range(3):
        grads = make([(members, *shape) for shape in shapes], torch.float64, seed=step + 1)
        kernel = kernels.choose(direction, params, grads, states, members=members, last=kernel)
        products = kernel.products(decays=decays, norms=True)
        kernel.move(alphas if step else alphas[0], decay=0.5)
        for k in range(members):
            single = kernels.choose(direction, alone[k], [grad[k] for grad in grads], own[k])
            expected = single.products(decays=decays, norms=True)
            single.move(alphas[:, k] if step else alphas[0, k], decay=0.5)
            assert torch.equal(products[..., k], expected)
            assert all(torch.equal(param[k], copy) for param, copy in zip(params, alone[k], strict=True))
            for state, one in zip(states, own[k], strict=True):
                for key, value in one.items():
                    assert torch.equal(state[key] if key == "step" else state[key][k], value)


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("lop", RULES)
@pytest.mark.parametrize("op", ["sgd", "sgdn", "heavy ball", "adam"])
def test_steps_equal_those_without_kernels(problem, op, lop, granularity):
    """In one call, and in two passes around torch's rule (as with bounds); with holes."""
    kind = "sgdn" if op == "heavy ball" else op
    alpha0, beta = problem.rates(f"{kind}-{lop}")
    options = {"nesterov": False} if op == "heavy ball" else {}
    runs = []
    for way in ({"fused": False}, {}, {"fused": True}, {"lr_bounds": (-1e30, 1e30)}):
        params = problem.initial()
        arguments = options | way | {"lr": alpha0, "hypergrad_lr": beta, "weight_decay": 0.01}
        optimizer = hypergrad.create(f"{kind}-{lop}", params, granularity=granularity, **arguments)
        problem.train(optimizer, params, range(20), {0: {1}, 7: {0, 2}, 8: {2}})
        state = optimizer.param_groups[0]["lop_state"]
        learned = [*optimizer.learning_rates, *optimizer.hypergradients, *state.values()]
        runs.append([*(param.detach() for param in params), *learned])
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("kind", DIRECTIONS)
def test_bits_do_not_depend_on_threads(kind):
    direction, runs = DIRECTIONS[kind], []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2):
            torch.set_num_threads(count)
            params = make(SHAPES, torch.float32)
            states, products = states_for(direction, params), []
            for step in range(3):
                kernel = kernels.choose(direction, params, make(SHAPES, torch.float32, step + 1), states)
                products.append(kernel.products(norms=True))
                kernel.move(torch.tensor(0.01))
            runs.append([*params, *products])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


def test_products_are_accumulated_in_float64():
    # A float32 sum of these stalls at 2²⁴.
    param = torch.zeros(20_000_000)
    states = [{"direction": torch.ones_like(param)}]
    products = kernels.choose(directions.SGD(), [param], [torch.ones_like(param)], states).products()
    assert products.item() == 20_000_000


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "gradient only"])
def test_layouts(layout):
    def laid_out(tensor, is_gradient=False):
        if layout == "channels_last":
            return tensor.contiguous(memory_format=torch.channels_last)
        if layout == "transposed" or is_gradient:
            return tensor.transpose(0, 3).contiguous().transpose(0, 3)
        return tensor

    runs = []
    for arrange in (laid_out, lambda tensor, is_gradient=False: tensor):
        (param,), (grad,) = make([(4, 3, 5, 2)], torch.float64), make([(4, 3, 5, 2)], torch.float64, 1)
        param, grad = arrange(param), arrange(grad, is_gradient=True)
        states = states_for(directions.Adam(), [param])
        for _ in range(2):
            kernel = kernels.choose(directions.Adam(), [param], [grad], states)
            products = kernel.products()
            kernel.move(torch.tensor(0.1, dtype=torch.float64))
        runs.append((param, products))
    assert torch.equal(runs[0][0], runs[1][0])
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-12, atol=1e-12)


def test_empty_tensors_are_taken_beside_tensors_laid_out_otherwise():
    """The strides of an empty tensor may seem to leave gaps."""
    params = [torch.ones(2, 3).T, torch.ones(3, 0), torch.ones(3, 0, 5)]
    grads = list(map(torch.ones_like, params))
    kernel = kernels.choose(directions.SGD(), params, grads, states_for(directions.SGD(), params))
    assert kernel.products().tolist() == [0, 0, 0]
    kernel.move(torch.tensor(0.25))
    assert torch.equal(params[0], torch.full((3, 2), 0.75))


class Other(torch.Tensor):
    pass


UNSUITABLE = {
    "bfloat16": lambda: torch.randn(4).bfloat16(),
    "gaps": lambda: torch.randn(4, 4)[:, :2],
    "expanded": lambda: torch.randn(1).expand(4),
    "subclass": lambda: torch.randn(4).as_subclass(Other),
    "meta": lambda: torch.empty(4, device="meta"),
}


@pytest.mark.parametrize("kind", UNSUITABLE)
def test_no_kernel_for_unsuitable_parameters(kind):
    param = UNSUITABLE[kind]()
    states = [{"direction": torch.zeros_like(param)}]
    assert kernels.choose(directions.SGD(), [param], [torch.ones_like(param)], states) is None


def test_no_kernel_for_mixed_dtypes_or_an_unknown_direction():
    params = [torch.zeros(3), torch.zeros(3, dtype=torch.float64)]
    states = states_for(directions.SGD(), params)
    assert kernels.choose(directions.SGD(), params, params, states) is None

    class Mine(directions.SGD):
        pass

    assert kernels.choose(Mine(), params[:1], params[:1], states[:1]) is None


def test_shapes_that_do_not_match_are_refused():
    param = torch.zeros(3)
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        kernels.choose(directions.SGD(), [param], [torch.zeros(2)], [{"direction": torch.zeros(3)}])


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
def test_no_step_with_an_alpha_or_a_state_of_another_size(granularity):
    """As after another granularity was written into a group: C would write past their ends."""
    rate = rates.SGDN()
    params, fits = make([(3,), (2,)], torch.float32), {"group": (1, 1), "tensor": (2, 2), "released": (1, 2)}
    for sizes in {(1, 1), (2, 2), (1, 2), (2, 1)}:
        alpha, state = torch.zeros(sizes[0]), rate.init(torch.zeros(sizes[1]))
        states = states_for(directions.SGD(), params)
        kernel = kernels.choose(directions.SGD(), params, make([(3,), (2,)], torch.float32, 1), states)
        h = kernel.step(rate, state, alpha, hypergrad_lr=0.1, granularity=granularity)
        assert (h is not None) == (sizes == fits[granularity])


# ---- What is not as it should be never reaches C, which would end the process ----


def two_vectors(direction, elements=1000, **options):
    """A kernel that has taken a step, and its operands; large, so that C would not stay within a page."""
    params = make([(elements,), (elements,)], torch.float32)
    states, grads = states_for(direction, params), make([(elements,), (elements,)], torch.float32, 1)
    kernel = kernels.choose(direction, params, grads, states, **options)
    return kernel, params, grads, states


@pytest.mark.parametrize(
    "decays",
    [torch.zeros(1), torch.zeros(3), torch.zeros(2, 1), torch.zeros(()), torch.zeros(2, device="meta")],
    ids=str,
)
def test_decays_are_checked(decays):
    kernel, *_ = two_vectors(directions.SGD())
    with pytest.raises(ValueError, match=r"need a tensor of shape \(2,\) there"):
        kernel.products(decays=decays)


@pytest.mark.parametrize(
    "alpha",
    [torch.zeros(1), torch.zeros(3), torch.zeros(2, 1), torch.zeros((), device="meta"), torch.zeros(0)],
    ids=str,
)
def test_alphas_are_checked(alpha):
    kernel, params, *_ = two_vectors(directions.SGD())
    kernel.products()
    before = [param.clone() for param in params]
    with pytest.raises(ValueError, match="need a tensor of shape"):
        kernel.move(alpha)
    assert all(map(torch.equal, params, before))


def test_alphas_of_other_types_and_layouts_are_taken():
    for alpha in (torch.tensor([1, 2]), torch.tensor([1.0, 9.0, 2.0], dtype=torch.float64)[::2]):
        kernel, params, grads, _ = two_vectors(directions.SGD())
        before = [param.clone() for param in params]
        kernel.products()
        kernel.move(alpha)
        for factor, param, start, grad in zip((1, 2), params, before, grads, strict=True):
            torch.testing.assert_close(param, start - factor * grad)


def test_members_are_checked():
    params = make([(6, 1000), (4, 1000)], torch.float32)
    states, grads = states_for(directions.SGD(), params), make([(6, 1000), (4, 1000)], torch.float32, 1)
    with pytest.raises(ValueError, match="must stack 6 members"):
        kernels.choose(directions.SGD(), params, grads, states, members=6)
    # One of another number of members is not taken up.
    one = kernels.choose(directions.SGD(), params[:1], grads[:1], states[:1], members=6)
    other = kernels.choose(directions.SGD(), params[:1], grads[:1], states[:1], last=one)
    assert other is not one
    assert other.products().shape == (1,)


def no_elements(state):
    state["step"] = torch.zeros(0)


def elsewhere(state):
    state["exp_avg"] = state["exp_avg"].to("meta")


def count_elsewhere(state):
    state["step"] = state["step"].to("meta")


@pytest.mark.parametrize("change", [no_elements, elsewhere, count_elsewhere])
def test_states_are_checked(change):
    kernel, params, grads, states = two_vectors(directions.Adam())
    change(states[1])
    assert kernels.choose(directions.Adam(), params, grads, states, last=kernel) is None


def test_gradients_without_memory_are_not_taken():
    """As autograd has them for zeros that it does not write out."""
    kernel, params, _, states = two_vectors(directions.SGD())
    zeros = [torch._efficientzerotensor((1000,)) for _ in params]
    assert kernels.choose(directions.SGD(), params, zeros, states, last=kernel) is None
    assert kernels.choose(directions.SGD(), params, zeros, states) is None


def shorter(tensor):
    tensor.data = tensor.data[:10]


def freed(tensor):
    """At one address or another: what was there is gone."""
    tensor.data = torch.empty(0)
    tensor.data = torch.zeros(tensor.numel() + 10)


@pytest.mark.parametrize("change", [shorter, freed])
@pytest.mark.parametrize("of", ["parameter", "gradient", "exp_avg", "exp_avg_sq"])
def test_a_kernel_is_not_taken_up_by_tensors_of_other_data(of, change):
    kernel, params, grads, states = two_vectors(directions.Adam(), elements=100_000)
    kernel.products()
    kernel.move(torch.tensor(0.1))
    change({"parameter": params[1], "gradient": grads[1], **states[1]}[of])
    assert not kernel.renew(directions.Adam(), params, grads, states, weight_decay=0.0, maximize=False)


@pytest.mark.parametrize("change", [shorter, freed])
@pytest.mark.parametrize("of", ["alpha", "h", "momentum_buffer"])
def test_nor_is_a_rule(of, change):
    rate, alpha, h = rates.SGDN(), torch.full((2,), 0.1), torch.zeros(2)
    state = rate.init(alpha.new_zeros(2))
    kernel, params, grads, states = two_vectors(directions.SGD())

    def step():
        return kernel.step(rate, state, alpha, hypergrad_lr=0.1, granularity="tensor", out=h)

    assert step() is h
    change({"alpha": alpha, "h": h, **state}[of])
    if change is shorter:
        for value in (alpha, h, *state.values()):
            value.data = value.data[:1]
    assert kernel.renew(directions.SGD(), params, grads, states, weight_decay=0.0, maximize=False)
    assert step() is None


def test_autograd_notices_the_move():
    param = torch.randn(3, requires_grad=True)
    loss = (param * param).sum()
    with torch.no_grad():
        kernel = kernels.choose(directions.SGD(), [param], [torch.ones(3)], [{"direction": torch.zeros(3)}])
        kernel.products()
        kernel.move(torch.tensor(0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---- Building ----

STEP = """
import torch
import hypergrad
from hypergrad import directions, kernels
from hypergrad.kernels import build, cpu
torch.manual_seed(0)
param = torch.randn(1000)
states = [{"direction": torch.randn(1000)}]
kernel = kernels.choose(directions.SGD(), [param], [torch.randn(1000)], states)
print(kernels.why_not() or float(kernel.products()))
"""


def test_processes_that_build_at_once_leave_one_library(tmp_path):
    folder = tmp_path / "made" / "on demand"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", STEP],
            env=os.environ | {"HYPERGRAD_CACHE": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    (first, errors), (second, more_errors) = (process.communicate(timeout=240) for process in processes)
    assert (errors, more_errors) == ("", "")
    assert float(first) == float(second)
    assert len(list(folder.iterdir())) == 1  # no temporary file either
    assert folder.stat().st_mode & 0o077 == 0


def forget():
    """What a new process would not know."""
    build._attempt.cache_clear()
    cpu_interface.functions.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has not built yet."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("HYPERGRAD_CACHE", str(tmp_path))
    forget()
    yield tmp_path
    forget()


def train(name="adam-adam", dtype=torch.float32, fused=None):
    """Three steps: the parameters and α."""
    params = [torch.nn.Parameter(param) for param in make([(100, 10), (10,)], dtype)]
    optimizer = hypergrad.create(name, params, lr=0.1, hypergrad_lr=1e-3, fused=fused)
    for step in range(3):
        for param, grad in zip(params, make([(100, 10), (10,)], dtype, step + 1), strict=True):
            param.grad = grad
        optimizer.step()
    return [*(param.detach() for param in params), *optimizer.learning_rates]


@pytest.mark.parametrize("damage", [b"", b"\x7fELF"])
def test_a_damaged_library_is_built_again(cache, damage):
    assert kernels.available()
    (library,) = cache.iterdir()
    before = train()
    library.unlink()  # in place it would change under this process
    library.write_bytes(damage)
    forget()
    assert kernels.available()
    assert all(map(torch.equal, train(), before))


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"PATH": "/nonexistent", "CC": ""}, "there is no C compiler: install gcc or clang"),
        ({"CC": "false"}, "does not compile cpu.c: exit status 1"),
        ({"HYPERGRAD_KERNELS": "0"}, "HYPERGRAD_KERNELS=0"),
        ({"HYPERGRAD_CACHE": "/proc/nowhere"}, "name another folder in HYPERGRAD_CACHE"),
    ],
    ids=["no compiler", "broken compiler", "switched off", "no folder"],
)
def test_without_a_library_steps_are_the_same_to_rounding(cache, monkeypatch, environment, reason):
    expected = train()
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(mode=0o700)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget()
    assert reason in kernels.why_not()
    for fused in (None, True):
        torch.testing.assert_close(train(fused=fused), expected, rtol=1e-5, atol=1e-6)
    assert list(cache.iterdir()) == []


def test_a_folder_that_others_can_write_to_is_not_trusted(cache):
    cache.chmod(0o777)
    assert "others can write to the cache folder" in kernels.why_not()


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to any folder")
def test_a_folder_that_cannot_be_written_to(cache):
    cache.chmod(0o500)
    assert "cannot write to" in kernels.why_not()


def test_why_not_names_the_dtype_and_device():
    assert kernels.available()
    assert kernels.why_not("cpu", torch.float64) is None
    assert "bfloat16" in kernels.why_not("cpu", torch.bfloat16)
    assert "meta" in kernels.why_not("meta")
