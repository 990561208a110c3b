"""The member axis, and what functional refuses."""

from __future__ import annotations

import pytest
import torch

import hypergrad
from hypergrad import directions, functional, kernels, rates

from .rules import ONE_STEP, RULES

OPS = {"sgd": directions.SGD(), "sgdn": directions.Momentum(), "adam": directions.Adam()}
NAMES = [
    name for name in hypergrad.NAMES if not name.startswith(("adamw", "muon"))
]  # AdamW is an option of Adam, Muon knows no members
LOPS = {"": None} | {name: rule.rate for name, rule in RULES.items()}


@pytest.mark.parametrize("missing", [{}, {0: {1}, 4: {0, 2}, 6: {3}}], ids=["all", "missing"])
@pytest.mark.parametrize("granularity", functional.GRANULARITIES)
@pytest.mark.parametrize("name", NAMES)
def test_stacked_members_train_as_they_would_alone(problem, name, granularity, missing):
    check_members(problem, name, granularity, missing, problem.rates(name), {})


@pytest.mark.parametrize(
    "options", ["multiplicative", "additive-cosine", "cosine", "decoupled", "traced", "all"]
)
@pytest.mark.parametrize("granularity", functional.GRANULARITIES)
@pytest.mark.parametrize("name", ["sgdn-sgd", "adam-sgdn"])
def test_stacked_members_and_options(problem, name, granularity, options):
    if options == "traced" and granularity == "released":
        pytest.skip("released takes no trace")
    alpha0, beta = problem.rates(name)
    cosine = {"rule": "cosine", **ONE_STEP}
    traced = {
        "rule": "cosine",
        "trace_decay": 0.8,
        "max_relative_step": 0.05,
        "first_relative_step": (1e-3, 1e-2),
    }
    decoupled = {"decoupled_weight_decay": True}
    given, beta = {
        "multiplicative": ({"rule": "multiplicative"}, 0.1),
        "additive-cosine": ({"rule": "additive-cosine"}, 1e-4),
        "cosine": (cosine, 0.02),
        "decoupled": (decoupled, beta),
        "traced": (traced | decoupled, 0.02),
        "all": (cosine | decoupled | {"lr_bounds": (0.9 * alpha0, 2.5 * alpha0)}, 0.02),
    }[options]
    check_members(problem, name, granularity, {0: {1}, 4: {0, 2}}, (alpha0, beta), given)


def check_members(problem, name, granularity, missing, rates_, options):
    op, _, lop = name.partition("-")
    alpha0, beta = rates_
    members, steps = 3, 20
    starts = [[p.detach() * (1 + 0.5 * k) for p in problem.initial()] for k in range(members)]
    lrs = torch.tensor([alpha0 * (1 + k / 2) for k in range(members)], dtype=torch.float64)
    betas = torch.tensor([beta * (1 - k / 4) for k in range(members)], dtype=torch.float64)

    alone = []
    for k in range(members):
        params = [start.clone().requires_grad_() for start in starts[k]]
        optimizer = hypergrad.create(
            name,
            params,
            lr=float(lrs[k]),
            hypergrad_lr=float(betas[k]),
            granularity=granularity,
            weight_decay=0.1,
            fused=False,
            **options,
        )
        problem.train(optimizer, params, range(steps), missing)
        alone.append((params, optimizer))

    for fused in (False, None):  # without kernels and, where there are some, with them
        stacked = [torch.stack(tensors).requires_grad_() for tensors in zip(*starts, strict=True)]
        state = functional.init(stacked, LOPS[lop], lr=lrs, granularity=granularity, members=members)
        for step in range(steps):
            each = [problem.gradients([p[k] for p in stacked], step) for k in range(members)]
            grads = [torch.stack(tensors) for tensors in zip(*each, strict=True)]
            h = functional.update(
                stacked,
                [None if i in missing.get(step, ()) else grad for i, grad in enumerate(grads)],
                state,
                OPS[op],
                LOPS[lop],
                functional.StepOptions(
                    hypergrad_lr=betas, weight_decay=0.1, granularity=granularity, fused=fused, **options
                ),
            )
        assert (state.kernel is not None) == (bool(lop) and fused is None and kernels.available())

        for k, (params, optimizer) in enumerate(alone):
            for together, single in zip(stacked, params, strict=True):
                torch.testing.assert_close(together[k], single, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(state.alpha[..., k], optimizer.learning_rates[0], rtol=1e-12, atol=0)
            if lop:
                assert h.shape == state.alpha.shape
                torch.testing.assert_close(h[..., k], optimizer.hypergradients[0], rtol=1e-9, atol=1e-12)
                assert not torch.equal(state.alpha[..., k], lrs[k].expand_as(state.alpha[..., k]))


def test_gradients_and_other_members_stay_as_they_are():
    params = [torch.ones(2, 3), torch.ones(2)]
    grads = [torch.ones(2, 3), torch.tensor([1.0, torch.nan])]
    state = functional.init(params, rates.Adam(), lr=0.1, members=2)
    for _ in range(3):
        functional.update(
            params,
            grads,
            state,
            directions.Adam(),
            rates.Adam(),
            functional.StepOptions(hypergrad_lr=0.01, weight_decay=0.1, maximize=True),
        )
    assert torch.equal(grads[0], torch.ones(2, 3))
    assert torch.isfinite(params[0][0]).all()
    assert torch.isfinite(state.alpha[0])
    assert torch.isnan(state.alpha[1])


def test_init_says_what_is_wrong():
    params = [torch.zeros(3, 2), torch.zeros(2)]
    with pytest.raises(ValueError, match=r"params\[1\] has shape \(2,\): with members=3"):
        functional.init(params, lr=0.1, members=3)
    with pytest.raises(ValueError, match="granularity must be one of group, tensor, released, got 'layer'"):
        functional.init(params, lr=0.1, granularity="layer")
    with pytest.raises(ValueError, match=r"lr has shape \(3,\): give a number, or a tensor of shape \(2,\)"):
        functional.init(params, rates.SGD(), lr=torch.zeros(3), granularity="tensor")
