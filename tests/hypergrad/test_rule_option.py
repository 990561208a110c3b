"""The option ``rule``: defaults, β of each, warnings, states of version 0.1; AdamW; α of several groups."""

from __future__ import annotations

import copy
import math
import pickle
import warnings

import pytest
import torch

import hypergrad
from hypergrad.reference import Reference

from .rules import ONE_STEP

RULES = ("additive", "additive-cosine", "multiplicative", "cosine")
KNOWN_RULES = ", ".join(map(repr, RULES))
CLASSES = (hypergrad.SGD, hypergrad.Adam, hypergrad.AdamW)


@pytest.fixture
def param():
    return torch.ones(3, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_learns_by_the_cosine_unless_told_otherwise(param, kind):
    group = kind([param]).param_groups[0]
    assert (group["rule"], group["lop"]) == ("cosine", "sgdn")
    assert group["hypergrad_lr"] == 0.02
    assert kind([param], lop=None).param_groups[0]["hypergrad_lr"] == 0


@pytest.mark.parametrize(
    ("name", "beta"), [("sgd-sgd", 1e-3), ("sgdn-adam", 1e-3), ("adam-adam", 1e-7), ("adamw-sgdn", 1e-7)]
)
def test_create_is_the_papers_unless_told_otherwise(param, name, beta):
    group = hypergrad.create(name, [param]).param_groups[0]
    assert (group["rule"], group["hypergrad_lr"]) == ("additive", beta)
    assert hypergrad.create(name, [param], rule="cosine").param_groups[0]["rule"] == "cosine"


def test_every_combination_has_a_beta_that_is_not_warned_of(param):
    for name in (name for name in hypergrad.NAMES if "-" in name):
        op, _, lop = name.partition("-")
        for rule in RULES:
            if rule == "multiplicative" and lop in ("sgd", "sgdn"):
                continue
            beta = hypergrad.default_hypergrad_lr(rule, op, lop)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                optimizer = hypergrad.create(name, [param], rule=rule, hypergrad_lr=beta)
            assert hypergrad.create(name, [param], rule=rule).param_groups[0]["hypergrad_lr"] == beta
            assert optimizer.param_groups[0]["hypergrad_lr"] == beta > 0


@pytest.mark.parametrize("lop", ["sgd", "sgdn"])
def test_a_rule_whose_beta_has_the_unit_of_the_loss_needs_one(param, lop):
    with pytest.raises(ValueError, match=r"needs a hypergrad_lr.* rule='cosine'"):
        hypergrad.Adam([param], lop=lop, rule="multiplicative")
    hypergrad.Adam([param], lop=lop, rule="multiplicative", hypergrad_lr=0.1)


def test_an_unknown_rule_has_no_default_beta():
    with pytest.raises(ValueError, match=rf"^rule must be one of {KNOWN_RULES}, got 'nonsense'$"):
        hypergrad.default_hypergrad_lr("nonsense", "adam", "sgdn")


@pytest.mark.parametrize("rule", RULES)
def test_unknown_ops_and_lops_have_no_default_beta(rule):
    with pytest.raises(ValueError, match=r"^op must be one of 'sgd', .*'muon', got 'rmsprop'$"):
        hypergrad.default_hypergrad_lr(rule, "rmsprop", "adam")
    with pytest.raises(ValueError, match=r"^lop must be one of 'sgd', .*'lion', got None$"):
        hypergrad.default_hypergrad_lr(rule, "adam", None)


def test_a_group_may_have_a_rule_of_its_own(param):
    other = torch.ones(2, requires_grad=True)
    optimizer = hypergrad.Adam([{"params": [param]}, {"params": [other], "rule": "additive", "lop": "adam"}])
    assert [group["hypergrad_lr"] for group in optimizer.param_groups] == [0.02, 1e-7]


@pytest.mark.parametrize("name", ["adam-sgdn", "adamw-sgdn", "adam-sgd", "muon-sgdn"])
@pytest.mark.parametrize("alpha0", [1e-5, 1e-3])
def test_defaults_train_a_regression(name, alpha0):
    check_regression(name, alpha0)


@pytest.mark.parametrize("name", ["sgd-sgdn", "sgdn-sgdn", "sgdn-lion", "sgd-adagrad"])
def test_defaults_of_sgd_do_not_diverge(name):
    check_regression(name, 1e-3)


def check_regression(name, alpha0):
    """A network and targets whose unit gives a loss of about 25: additive rules diverge here with SGD."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
    optimizer = hypergrad.create(name, model.parameters(), lr=alpha0, rule="cosine")
    losses = []
    for _ in range(400):
        inputs = torch.randn(64, 8, generator=generator)
        targets = 5 * inputs[:, :1].sin() + inputs[:, 1:2]
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert math.isfinite(losses[-1])
    assert sum(losses[-20:]) < 0.2 * sum(losses[:20])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam-adam", {"rule": "cosine", "hypergrad_lr": 1e-7}, r"hardly moves α.* rule='additive'"),
        ("sgd-sgd", {"rule": "multiplicative", "hypergrad_lr": 1e-6}, "hardly moves α"),
        ("adam-sgdn", {"rule": "cosine", "hypergrad_lr": 10.0}, "multiplies α by more than e³ in a step"),
        ("adamw-sgdn", {"hypergrad_lr": 0.03}, r"usually diverges.* rule='cosine'"),
        ("sgd-adam", {"hypergrad_lr": 0.03}, "moves α by up to 30 times lr=0.001"),
        ("sgd-sgd", {"rule": "additive-cosine", "hypergrad_lr": 0.1}, "moves α by up to 100 times"),
    ],
)
def test_a_beta_of_another_rules_size_is_warned_of(param, name, options, message):
    with pytest.warns(UserWarning, match=message) as caught:
        hypergrad.create(name, [param], **options)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_the_spelling_of_old_runs_and_is_warned_of_once(param):
    others = [{"params": [torch.ones(2, requires_grad=True)]} for _ in range(2)]
    with pytest.warns(UserWarning, match="rule='additive'") as caught:
        optimizer = hypergrad.Adam([{"params": [param]}, *others], lr=1e-3, hypergrad_lr=1e-7, lop="adam")
    assert len(caught) == 1
    param.grad = torch.ones_like(param)
    optimizer.step()


@pytest.mark.parametrize("beta", [0.0, torch.tensor(1e-7)])
def test_a_beta_that_is_meant_is_not_warned_of(param, beta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hypergrad.SGD([param], hypergrad_lr=0.0)
        hypergrad.SGD([param], lop=None, hypergrad_lr=1e-7)


def of_version_0_1(options):
    """The options as version 0.1 had them."""
    old = {name: value for name, value in options.items() if name not in ("rule", *ONE_STEP)}
    booleans = {
        "additive": (False, False),
        "additive-cosine": (False, True),
        "multiplicative": (True, False),
        "cosine": (True, True),
    }[options["rule"]]
    return old | dict(zip(("multiplicative", "normalize"), booleans, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_a_state_of_version_0_1_loads(problem, rule):
    """As if the option had always been there: the same α and parameters, bit for bit."""
    params = problem.initial()
    optimizer = hypergrad.create("adam-sgdn", params, lr=0.01, hypergrad_lr=1e-4, rule=rule, **ONE_STEP)
    problem.train(optimizer, params, range(5))
    state = optimizer.state_dict()
    state["param_groups"] = [of_version_0_1(group) for group in state["param_groups"]]
    kept = copy.deepcopy(state)
    resumed = [param.detach().clone().requires_grad_() for param in params]
    other = hypergrad.Adam(resumed)
    other.load_state_dict(state)
    assert state["param_groups"][0].keys() == kept["param_groups"][0].keys()
    assert other.param_groups[0]["rule"] == rule
    assert not {"multiplicative", "normalize"} & other.param_groups[0].keys()
    for each, values in ((optimizer, params), (other, resumed)):
        problem.train(each, values, range(5, 10))
    assert torch.equal(optimizer.learning_rates[0], other.learning_rates[0])
    assert all(torch.equal(a, b) for a, b in zip(params, resumed, strict=True))


def test_a_pickle_of_version_0_1_loads(problem):
    params = problem.initial()
    optimizer = hypergrad.create("sgd-sgd", params, lr=0.01, hypergrad_lr=0.1, rule="cosine", **ONE_STEP)
    problem.train(optimizer, params, range(3))
    optimizer.defaults = of_version_0_1(optimizer.defaults)
    optimizer.param_groups[0] = of_version_0_1(optimizer.param_groups[0])
    other = pickle.loads(pickle.dumps(optimizer))
    assert other.param_groups[0]["rule"] == other.defaults["rule"] == "cosine"
    problem.train(other, other.param_groups[0]["params"], range(3, 5))
    assert "multiplicative" not in other.defaults


@pytest.mark.parametrize("name", ["sgd-sgd", "adam-adam", "adamw-sgdn"])
def test_a_pickle_that_names_the_module_of_version_0_1_loads(problem, name):
    params = problem.initial()
    optimizer = hypergrad.create(name, params)
    problem.train(optimizer, params, range(3))
    module = type(optimizer).__module__.encode()
    pickled = pickle.dumps(optimizer, protocol=2)
    assert pickled.count(module + b"\n") == 1
    other = pickle.loads(pickled.replace(module + b"\n", b"hypergrad._optimizers\n"))
    assert type(other) is type(optimizer)
    assert torch.equal(other.learning_rates[0], optimizer.learning_rates[0])


def test_adamw_with_a_fixed_rate_is_torchs(problem):
    a, b = problem.initial(), problem.initial()
    problem.train(hypergrad.AdamW(a, lr=0.01, lop=None), a, range(30))
    problem.train(torch.optim.AdamW(b, lr=0.01), b, range(30))
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rule", RULES)
def test_adamw_equals_the_reference(problem, rule):
    """The reference with op Adam and weight decay in d."""
    lop, params = "sgdn", problem.initial()
    beta = {"additive": 2e-6, "additive-cosine": 2e-5, "multiplicative": 0.3, "cosine": 0.005}[rule]
    optimizer = hypergrad.AdamW(
        params, lr=0.005, weight_decay=0.3, lop=lop, rule=rule, hypergrad_lr=beta, **ONE_STEP
    )
    oracle = Reference(
        f"adam-{lop}", problem.initial(), 0.005, beta, weight_decay=0.3, decoupled=True, rule=rule
    )
    for step in range(30):
        problem.train(optimizer, params, range(step, step + 1))
        oracle.step(problem.gradients(oracle.theta, step))
    assert float(optimizer.learning_rates[0]) == pytest.approx(float(oracle.alpha[0]), rel=1e-10)
    assert abs(float(oracle.alpha[0]) / 0.005 - 1) > 0.01
    for x, y in zip(params, oracle.theta, strict=True):
        torch.testing.assert_close(x.detach(), y, rtol=1e-10, atol=1e-12)


class Adapted(torch.nn.Module):
    """A frozen layer with a trained product of low rank beside it, as LoRA has, and a head."""

    def __init__(self):
        super().__init__()
        self.frozen = torch.nn.Linear(6, 6).requires_grad_(False)
        self.down = torch.nn.Parameter(torch.randn(2, 6) / 6)
        self.up = torch.nn.Parameter(torch.zeros(6, 2))
        self.head = torch.nn.Linear(6, 3)

    def forward(self, inputs):
        return self.head(torch.tanh(self.frozen(inputs) + inputs @ self.down.T @ self.up.T))


def test_each_group_finds_its_own_rate_beside_frozen_parameters():
    """One α₀ is 1000 × too small, the other large: each α moves its own way, as it would alone."""

    def train(groups_of):
        torch.manual_seed(0)
        model = Adapted().double()
        generator = torch.Generator().manual_seed(1)
        adapter, head = [model.down, model.up], list(model.head.parameters())
        optimizers = groups_of(model, adapter, head)
        for _ in range(150):
            inputs = torch.randn(32, 6, generator=generator, dtype=torch.float64)
            loss = (model(inputs) - inputs[:, :3].sin()).square().mean()
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        return model, [rate for optimizer in optimizers for rate in optimizer.learning_rates], loss.item()

    def together(model, adapter, head):
        frozen = {"params": list(model.frozen.parameters())}
        groups = [{"params": adapter, "lr": 1e-6}, {"params": head, "lr": 0.1}, frozen]
        return [hypergrad.AdamW(groups)]

    def apart(model, adapter, head):
        return [hypergrad.AdamW(adapter, lr=1e-6), hypergrad.AdamW(head, lr=0.1)]

    model, (of_adapter, of_head, of_frozen), loss = train(together)
    other, alone, _ = train(apart)
    assert of_adapter > 1e-4
    assert of_head < 0.1
    assert of_frozen == 1e-3
    assert loss < 0.1
    torch.testing.assert_close([of_adapter, of_head], alone, rtol=1e-9, atol=0)
    torch.testing.assert_close(dict(model.state_dict()), dict(other.state_dict()), rtol=1e-9, atol=1e-12)
    torch.manual_seed(0)
    assert torch.equal(model.frozen.weight, Adapted().double().frozen.weight)
