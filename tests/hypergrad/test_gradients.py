"""What is done to gradients before the step, and what h makes of it: scaled, clipped, added up, complex."""

from __future__ import annotations

import copy

import pytest
import torch

import hypergrad

GRANULARITIES = ("group", "tensor", "released")
EVERYTHING = {
    "rule": "cosine",
    "decoupled_weight_decay": True,
    "lr_bounds": (1e-6, 1.0),
}


def make(problem, name, params, **options):
    alpha0, beta = problem.rates(name)
    beta = 0.01 if "rule" in options else beta
    return hypergrad.create(name, params, lr=alpha0, hypergrad_lr=beta, weight_decay=0.1, **options)


def everything(optimizer, params):
    """All that a step could change."""
    return copy.deepcopy((optimizer.state_dict(), [param.detach() for param in params]))


def assert_equal(a, b):
    """Equal bits in nested lists and dicts."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def step_scaled(problem, scaler, optimizer, params, step, poison=False):
    """One step on gradients that are scaled, and not finite if poisoned."""
    grads = problem.gradients(params, step)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad * scaler.get_scale()
    if poison:
        params[1].grad[0] = torch.inf
    scaler.scale(torch.zeros(()))  # where a loss would be scaled
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize(
    "options", [{}, {"fused": False}, {"fused": True}, {"fused": True, **EVERYTHING}], ids=str
)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-sgdn", "adam-adam", "adam-lion"])
def test_scaled_gradients_move_as_unscaled_ones(problem, name, granularity, options):
    a, b = problem.initial(), problem.initial()
    scaled = make(problem, name, a, granularity=granularity, **options)
    plain = make(problem, name, b, granularity=granularity, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for step in range(10):
        step_scaled(problem, scaler, scaled, a, step)
        problem.train(plain, b, range(step, step + 1))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(scaled.learning_rates, plain.learning_rates, rtol=1e-12, atol=0)
    torch.testing.assert_close(scaled.hypergradients, plain.hypergradients, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "options", [{}, {"fused": False}, {"fused": True}, {"fused": True, **EVERYTHING}], ids=str
)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-sgdn", "adam-adam", "adam-lion"])
def test_a_skipped_step_changes_nothing(problem, name, granularity, options):
    a, b = problem.initial(), problem.initial()
    skipping = make(problem, name, a, granularity=granularity, **options)
    plain = make(problem, name, b, granularity=granularity, **options)
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2))
    for step in range(8):
        if step in (2, 3, 6):
            before = everything(skipping, a)
            step_scaled(problem, scaler, skipping, a, step, poison=True)
            assert_equal(everything(skipping, a), before)
        step_scaled(problem, scaler, skipping, a, step)
        step_scaled(problem, other, plain, b, step)
    assert scaler.get_scale() == 2.0**7
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(skipping.learning_rates, plain.learning_rates, rtol=1e-12, atol=0)


@pytest.mark.parametrize("fused", [None, False, True])
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("name", ["sgd-sgd", "adam-adam"])
def test_the_first_step_may_be_skipped(problem, name, options, fused):
    a, b = problem.initial(), problem.initial()
    skipping, plain = (make(problem, name, params, fused=fused, **options) for params in (a, b))
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2))
    step_scaled(problem, scaler, skipping, a, 0, poison=True)
    assert_equal([x.detach() for x in a], [x.detach() for x in problem.initial()])
    for step in range(4):
        step_scaled(problem, scaler, skipping, a, step)
        step_scaled(problem, other, plain, b, step)
    assert_equal(skipping.learning_rates, plain.learning_rates)
    assert_equal([x.detach() for x in a], [x.detach() for x in b])


def test_only_an_optimizer_that_is_fused_throughout_skips_by_itself(problem):
    params = problem.initial()
    groups = [{"params": params[:2]}, {"params": params[2:], "fused": True}]
    assert not hypergrad.SGD(groups)._step_supports_amp_scaling
    optimizer = hypergrad.SGD(params)
    optimizer.found_inf = torch.ones(())
    params[0].grad = torch.ones_like(params[0])
    with pytest.raises(ValueError, match="found_inf needs fused=True"):
        optimizer.step()


def test_unscaling_first_for_clipping(problem):
    a, b = problem.initial(), problem.initial()
    scaled, plain = make(problem, "adam-sgd", a, fused=True), make(problem, "adam-sgd", b, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(5):
        for param, grad in zip(a, problem.gradients(a, step), strict=True):
            param.grad = grad * scaler.get_scale()
        scaler.scale(torch.zeros(()))
        scaler.unscale_(scaled)
        torch.nn.utils.clip_grad_norm_(a, 0.5)
        scaler.step(scaled)
        scaler.update()
        for param, grad in zip(b, problem.gradients(b, step), strict=True):
            param.grad = grad
        torch.nn.utils.clip_grad_norm_(b, 0.5)
        plain.step()
    torch.testing.assert_close(scaled.learning_rates, plain.learning_rates, rtol=1e-12, atol=0)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_clipping_scales_h_by_both_gradients_factors(problem):
    """h = −⟨c_t g_t, c_{t−1} g_{t−1}⟩ for op SGD: at most the square of the largest norm."""
    largest = 0.3
    params = problem.initial()
    still = {"lr": 0.0, "hypergrad_lr": 0.0}
    optimizer = hypergrad.SGD(params, **still, rule="additive")
    twins = [p.detach().clone().requires_grad_() for p in params]
    cosine = hypergrad.SGD(twins, **still, rule="additive-cosine")
    seen = []
    for step in range(4):
        for param, grad in zip(params, problem.gradients(params, step), strict=True):
            param.grad = grad.clone()
        for param, twin in zip(params, cosine.param_groups[0]["params"], strict=True):
            twin.grad = param.grad.clone()
        flat = torch.cat([param.grad.flatten() for param in params])
        norm = torch.nn.utils.clip_grad_norm_(params, largest)
        seen.append((flat, min(1.0, largest / (float(norm) + 1e-6))))
        optimizer.step()
        cosine.step()
    (before, c), (now, d) = seen[-2:]
    assert max(c, d) < 1
    h = optimizer.hypergradients[0]
    torch.testing.assert_close(h, -c * d * (before @ now), rtol=1e-9, atol=0)
    assert abs(h) <= largest**2
    # The cosine of op SGD does not know of clipping by the norm.
    torch.testing.assert_close(cosine.hypergradients[0], h / (c * d * before.norm() * now.norm()))


@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_accumulated_gradients_are_those_of_the_whole_batch(problem, name):
    """Each part's mean loss is divided by the number of parts: h is then the whole batch's."""
    a, b = problem.initial(), problem.initial()
    parts, whole = make(problem, name, a), make(problem, name, b)
    for step in range(6):
        parts.zero_grad()
        for part in (slice(0, 4), slice(4, 8)):
            inputs, targets = problem._inputs[step, part], problem._targets[step, part]
            w1, b1, w2, b2 = a
            loss = ((torch.tanh(inputs @ w1.T + b1) @ w2.T + b2 - targets) ** 2).mean() * 3
            (loss / 2).backward()
        parts.step()
        problem.train(whole, b, range(step, step + 1))
    torch.testing.assert_close(parts.hypergradients, whole.hypergradients, rtol=1e-9, atol=0)
    torch.testing.assert_close(parts.learning_rates, whole.learning_rates, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "power"), [("sgd-sgd", 2), ("sgdn-sgd", 2), ("adam-sgd", 1)])
def test_sums_instead_of_means_scale_h(problem, name, power):
    """Forgetting to divide by k multiplies h by k² for SGD, by k for Adam, whose directions have no scale."""
    hs = []
    for k in (1.0, 4.0):
        params = problem.initial()
        optimizer = hypergrad.create(name, params, lr=0.0, hypergrad_lr=0.0)
        for step in range(3):
            for param, grad in zip(params, problem.gradients(params, step), strict=True):
                param.grad = k * grad
            optimizer.step()
        hs.append(optimizer.hypergradients[0])
    torch.testing.assert_close(hs[1], hs[0] * 4.0**power, rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"fused": True}, EVERYTHING], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", ["sgd", "sgd-sgd", "sgdn-sgdn", "adam", "adam-adam"])
def test_complex_parameters_move_as_pairs_of_real_ones(name, granularity, options):
    generator = torch.Generator().manual_seed(0)
    values = [
        torch.randn(*shape, 2, generator=generator, dtype=torch.float64) for shape in [(3, 2), (4,), ()]
    ]
    params = [torch.view_as_complex(value.clone()).requires_grad_() for value in values]
    pairs = [value.clone().requires_grad_() for value in values]
    one, other = (
        hypergrad.create(name, p, lr=0.01, hypergrad_lr=1e-4, granularity=granularity, **options)
        for p in (params, pairs)
    )
    for _ in range(6):
        for param, pair in zip(params, pairs, strict=True):
            pair.grad = torch.randn(pair.shape, generator=generator, dtype=torch.float64)
            param.grad = torch.view_as_complex(pair.grad.clone())
        params[0].grad = params[0].grad.conj().resolve_conj().conj()  # conjugated lazily
        one.step()
        other.step()
    for param, pair in zip(params, pairs, strict=True):
        torch.testing.assert_close(torch.view_as_real(param.detach()), pair.detach(), rtol=1e-13, atol=1e-15)
        # The state is complex where torch.optim's is, so that checkpoints are exchanged.
        moments = {key: value for key, value in one.state[param].items() if key != "step"}
        assert all(value.dtype == param.dtype for value in moments.values())
    torch.testing.assert_close(one.learning_rates, other.learning_rates, rtol=1e-13, atol=0)
    assert one.learning_rates[0].dtype == torch.float64


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_complex_parameters_with_a_fixed_rate_equal_torch(kind):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(5, generator=generator, dtype=torch.complex128).requires_grad_()
    b = a.detach().clone().requires_grad_()
    ours, theirs = getattr(hypergrad, kind.__name__)([a], lr=0.1, lop=None), kind([b], lr=0.1)
    for _ in range(5):
        a.grad = torch.randn(5, generator=generator, dtype=torch.complex128)
        b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def strided(value, layout):
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return value.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "every other":
        return torch.stack([value, torch.full_like(value, torch.nan)], -1)[..., 0]
    if layout == "expanded":
        return value[:1].expand(value.shape)
    return value


@pytest.mark.parametrize("options", [{}, {"foreach": False}, {"fused": True}, EVERYTHING], ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "every other", "expanded"])
@pytest.mark.parametrize("of", ["gradient", "parameter", "both"])
@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_layouts_do_not_matter(name, of, layout, options):
    """Gradients laid out otherwise than their parameters, with gaps, or written from one value."""
    if layout == "expanded" and of != "gradient":
        pytest.skip("a parameter cannot share its elements")
    if layout == "every other" and of != "gradient" and "fused" in options:
        pytest.skip("refused, see test_optimizer.py")
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(4, 3, 5, 2, generator=generator, dtype=torch.float64)
    a = value.clone().requires_grad_()
    b = (strided(value.clone(), layout) if of != "gradient" else value.clone()).detach().requires_grad_()
    one, other = (hypergrad.create(name, [p], lr=0.01, hypergrad_lr=1e-4, **options) for p in (a, b))
    for _ in range(5):
        grad = torch.randn(4, 3, 5, 2, generator=generator, dtype=torch.float64)
        if layout == "expanded":
            grad = grad[:1].expand(grad.shape)
        a.grad = grad.clone(memory_format=torch.contiguous_format)
        b.grad = strided(grad, layout) if of != "parameter" else a.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(one.hypergradients, other.hypergradients, rtol=1e-10, atol=0)


def test_empty_tensors_and_hooks(problem):
    params = [*problem.initial(), torch.zeros(0, 3, dtype=torch.float64, requires_grad=True)]
    calls = []
    for fused in (None, True):
        optimizer = hypergrad.Adam(params, lr=0.01, lop="sgd", rule="additive", fused=fused)
        before = optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        optimizer.register_state_dict_post_hook(lambda _, state: calls.append("saved"))
        for step in range(2):
            for param, grad in zip(params, problem.gradients(params[:4], step), strict=False):
                param.grad = grad
            params[4].grad = torch.zeros_like(params[4])
            optimizer.step()
        optimizer.state_dict()
        before.remove()
        assert calls == ["before", "after"] * 2 + ["saved"]
        calls.clear()
        assert optimizer.hypergradients[0] != 0
