"""The torch.optim contract: names, options, groups, closures, gradients."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import hypergrad

from .rules import RULES


@pytest.fixture
def param():
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


def test_names(param):
    ops = ("sgd", "sgdn", "adam", "adamw", "muon")
    assert sorted(hypergrad.NAMES) == sorted([*ops, *(f"{op}-{lop}" for op in ops for lop in RULES)])
    for name in hypergrad.NAMES:
        op, _, lop = name.partition("-")
        optimizer = hypergrad.create(name, [param])
        assert type(optimizer) is {
            "adam": hypergrad.Adam,
            "adamw": hypergrad.AdamW,
            "muon": hypergrad.Muon,
        }.get(op, hypergrad.SGD)
        group = optimizer.param_groups[0]
        assert group["lop"] == (lop or None)
        assert isinstance(group["lr"], torch.Tensor) == bool(lop)
        assert group["rule"] == "additive"
        assert group["decoupled_weight_decay"] == (op in ("adamw", "muon"))
        if op.startswith("sgd"):
            assert (group["momentum"], group["nesterov"]) == ((0.9, True) if op == "sgdn" else (0, False))
    assert hypergrad.create("sgdn-sgd", [param], momentum=0.5).param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("adam-adm", "adam-adam"), ("Adam", "adam"), ("sgdn_sgdn", "sgdn-sgdn"), ("sgd-hd", "sgd-sgd")],
)
def test_an_unknown_name_is_answered_with_the_nearest(param, name, nearest):
    with pytest.raises(ValueError, match=f"no optimizer '{name}': did you mean '{nearest}'"):
        hypergrad.create(name, [param])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (hypergrad.SGD, {"lr": -1.0}, "lr must be a finite number, at least 0, got -1.0"),
        (hypergrad.SGD, {"lr": float("nan")}, "lr must be a finite number"),
        (hypergrad.SGD, {"lr": torch.tensor(-1.0)}, "lr must be finite and at least 0"),
        (hypergrad.SGD, {"lr": torch.ones(2)}, "lr must have one element"),
        (
            hypergrad.SGD,
            {"lr": torch.ones(2), "granularity": "tensor"},
            r"lr has shape \(2,\): give a number",
        ),
        (hypergrad.SGD, {"hypergrad_lr": -1e-3}, "hypergrad_lr must be a finite number, at least 0"),
        (hypergrad.SGD, {"hypergrad_lr": "1e-3"}, "hypergrad_lr must be a finite number, .* got '1e-3'"),
        (hypergrad.SGD, {"weight_decay": -1.0}, "weight_decay must be a finite number"),
        (hypergrad.SGD, {"momentum": -0.1}, "momentum must be a finite number"),
        (hypergrad.SGD, {"nesterov": True}, "nesterov=True needs a momentum above 0"),
        (
            hypergrad.SGD,
            {"lop": "rmsprop"},
            f"lop must be one of None, {', '.join(map(repr, RULES))}, got 'rmsprop'",
        ),
        (hypergrad.SGD, {"lop_momentum": 1.0}, "lop_momentum must be at least 0 and below 1, got 1.0"),
        (hypergrad.SGD, {"lop_betas": (0.9, 1.0)}, "lop_betas must be two numbers"),
        (hypergrad.SGD, {"lop_betas": 0.9}, "lop_betas must be two numbers"),
        (hypergrad.SGD, {"lop_eps": 0.0}, "lop_eps must be above 0"),
        (hypergrad.SGD, {"granularity": "layer"}, "granularity must be one of 'group', 'tensor', 'released'"),
        (hypergrad.SGD, {"foreach": True, "fused": True}, "exclude each other"),
        (hypergrad.Adam, {"betas": (0.9,)}, "betas must be two numbers, each at least 0 and below 1"),
        (hypergrad.Adam, {"betas": (-0.1, 0.9)}, "betas must be two numbers"),
        (hypergrad.Adam, {"eps": -1e-8}, "eps must be a finite number"),
    ],
)
def test_bad_options_are_named(param, kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind([param], **options)
    optimizer = kind([torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [param], **options})
    assert len(optimizer.param_groups) == 1


def test_parameters_that_cannot_be_served_are_named(param):
    with pytest.raises(ValueError, match=r"one dtype on one device .* torch.float32 on cpu, torch.float64"):
        hypergrad.Adam([param, torch.ones(2, requires_grad=True)], fused=True)
    with pytest.raises(ValueError, match="fused=True needs parameters without gaps in memory"):
        hypergrad.SGD([torch.ones(4, 2)[:, 0].requires_grad_()], fused=True)
    for dense in (
        torch.ones(4, 2).T,
        torch.ones(2, 3, 1, 4).transpose(0, 3),
        torch.ones(0, 2),
        torch.ones(()),
    ):
        hypergrad.SGD([dense.requires_grad_()], fused=True)
    with pytest.raises(TypeError, match="betas"):
        hypergrad.create("sgd", [param], betas=(0.9, 0.999))


@pytest.mark.parametrize("name", hypergrad.NAMES)
def test_sparse_gradients_are_refused(name):
    embedding = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = hypergrad.create(name, embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="takes no sparse gradients"):
        optimizer.step()


def test_groups_differ_in_every_option(problem):
    """Two groups in one optimizer move as in two optimizers."""
    options = [
        {"lr": 0.01, "hypergrad_lr": 1e-4, "lop": "adam", "granularity": "tensor", "betas": (0.8, 0.9)},
        {"lr": 0.03, "hypergrad_lr": 1e-5, "lop": "sgdn", "rule": "additive", "weight_decay": 0.1},
        {"lr": 0.02, "lop": None, "eps": 1e-3},
    ]
    parts = [slice(0, 2), slice(2, 3), slice(3, 4)]
    together, apart = problem.initial(), problem.initial()
    one = hypergrad.Adam([{"params": together[parts[0]], **options[0]}])
    for part, option in zip(parts[1:], options[1:], strict=True):
        one.add_param_group({"params": together[part], **option})
    many = [hypergrad.Adam(apart[part], **option) for part, option in zip(parts, options, strict=True)]
    for step in range(10):
        for a, b, grad in zip(together, apart, problem.gradients(together, step), strict=True):
            a.grad, b.grad = grad, grad.clone()
        one.step()
        for optimizer in many:
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))
    for rate, optimizer in zip(one.learning_rates, many, strict=True):
        assert torch.equal(rate, optimizer.learning_rates[0])
    assert [rate.shape for rate in one.learning_rates] == [(2,), (), ()]
    assert one.hypergradients[2] == 0


@pytest.mark.parametrize("name", ["sgd-sgd", "sgdn-sgdn", "adam-adam"])
def test_a_rate_of_zero_grows(problem, name):
    _, beta = problem.rates(name)
    params = problem.initial()
    optimizer = hypergrad.create(name, params, lr=0.0, hypergrad_lr=beta)
    problem.train(optimizer, params, range(1))
    assert optimizer.learning_rates[0] == 0
    assert all(torch.equal(a, b) for a, b in zip(params, problem.initial(), strict=True))
    problem.train(optimizer, params, range(1, 20))
    assert optimizer.learning_rates[0] > 0


def test_nothing_belongs_to_a_parameter_without_a_gradient(problem):
    params = problem.initial()
    optimizer = hypergrad.create("adam-adam", params, lr=0.01, hypergrad_lr=1e-4, granularity="tensor")
    problem.train(optimizer, params, range(3), {step: {2} for step in range(3)})
    assert params[2] not in optimizer.state
    rates = optimizer.learning_rates[0]
    assert rates[2] == 0.01
    assert all(rates[i] != 0.01 for i in (0, 1, 3))
    assert optimizer.param_groups[0]["lop_state"]["step"].tolist() == [3, 3, 0, 3]
    before = optimizer.state_dict()
    optimizer.zero_grad()
    optimizer.step()
    after = optimizer.state_dict()
    assert before["param_groups"][0]["lop_state"]["step"].equal(after["param_groups"][0]["lop_state"]["step"])
    assert torch.equal(optimizer.learning_rates[0], rates)


def test_a_group_without_parameters_is_left_alone(param):
    optimizer = hypergrad.SGD([{"params": [param]}, {"params": []}], rule="additive")
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert param[0] == 1 - 1e-3


def test_closure(param):
    optimizer = hypergrad.SGD([param], lr=0.1, hypergrad_lr=0.01, lop="sgd", rule="additive")

    def closure():
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():  # as torch's own, step turns gradients on for its closure
        first, second = optimizer.step(closure).item(), optimizer.step(closure).item()
    assert first == 3
    assert second == pytest.approx(3 * 0.8**2)
    # h_2 = −3 · (2·0.8) · 2
    assert optimizer.hypergradients[0].item() == pytest.approx(-9.6)
    assert optimizer.learning_rates[0].item() == pytest.approx(0.1 + 0.01 * 9.6)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("name", hypergrad.NAMES)
def test_gradients_stay_as_they_are(problem, name, fused):
    if fused and name.startswith("muon"):
        pytest.skip("has no kernel")
    params = problem.initial()
    optimizer = hypergrad.create(name, params, weight_decay=0.1, maximize=True, fused=fused)
    grads = problem.gradients(params, 0)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    for _ in range(3):
        optimizer.step()
    assert all(torch.equal(param.grad, grad) for param, grad in zip(params, grads, strict=True))


def test_logged_values_do_not_move(problem):
    params = problem.initial()
    optimizer = hypergrad.create("sgd-sgd", params, lr=0.02, hypergrad_lr=1e-3)
    assert optimizer.hypergradients[0] == 0
    log = []
    for step in range(4):
        problem.train(optimizer, params, range(step, step + 1))
        log.append((optimizer.learning_rates[0], optimizer.hypergradients[0]))
    alphas, hs = ([float(x) for x in column] for column in zip(*log, strict=True))
    assert alphas[0] == 0.02
    assert len(set(alphas[1:])) == 3
    for before, after, h in zip(alphas[:-1], alphas[1:], hs[1:], strict=True):
        assert after == pytest.approx(before - 1e-3 * h, rel=1e-12)


def test_named_parameters_and_layouts():
    """Parameters in channels_last move as contiguous ones do."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3).double()
    other = torch.nn.Conv2d(3, 4, 3).double()
    other.load_state_dict(model.state_dict())
    other = other.to(memory_format=torch.channels_last)
    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    optimizers = [hypergrad.create("adam-adam", m.named_parameters(), lr=0.01) for m in (model, other)]
    for _ in range(5):
        for m, optimizer in zip((model, other), optimizers, strict=True):
            optimizer.zero_grad()
            (m(inputs) ** 2).mean().backward()
            optimizer.step()
    assert not other.weight.is_contiguous()
    torch.testing.assert_close(model.weight, other.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(optimizers[0].hypergradients, optimizers[1].hypergradients, rtol=1e-9, atol=0)
    assert optimizers[0].param_groups[0]["param_names"] == ["weight", "bias"]


def test_importing_hypergrad_brings_in_torch_alone():
    code = (
        "import sys, torch; before = set(sys.modules); import hypergrad;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # So neither Ray nor MLflow nor torchvision, nor anything else of the study.
    assert set(out.stdout.split()) - set(sys.stdlib_module_names) <= {"hypergrad", "torch"}
