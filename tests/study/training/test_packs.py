"""Which trials meet in a pack, and what a study file and the plan say about it."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from study.config.loader import ConfigError, Trial, load_study
from study.execution.planning import plan
from study.training import pack_limits, packs
from study.workloads.base import Data, Workload


def trial(alpha0=0.01, seed=0, optimizer="adam-adam", **more):
    more = {"workload": "mnist-logreg", "beta": 1e-6, "epochs": 20} | more
    return Trial(optimizer=optimizer, alpha0=alpha0, seed=seed, **more)


@pytest.mark.parametrize(
    "other",
    [
        {"workload": "mnist-mlp"},
        {"workload_args": {"hidden": 3}},
        {"optimizer": "adam-sgd"},
        {"optimizer": "sgdn-adam"},
        {"batch_size": 64},
        {"weight_decay": 0.0},
        {"granularity": "tensor"},
        {"optimizer_args": {"eps": 1e-6}},
        {"rule": "cosine"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_only_a_rate_a_seed_or_a_budget_may_differ(other):
    alike = [trial(), trial(0.02), trial(seed=7), trial(beta=1e-3), trial(epochs=None, iterations=5)]
    assert len({each.kind for each in alike}) == 1
    assert trial(**other).kind != trial().kind


@given(
    st.lists(
        st.tuples(st.sampled_from(["sgd", "adam"]), st.integers(0, 4), st.integers(1, 30)),
        unique=True,
        max_size=60,
    ),
    st.integers(1, 20),
)
def test_packs_hold_every_trial_once_of_one_kind_and_as_few_packs_as_can_be(points, most):
    trials = [trial(alpha / 100, seed, optimizer) for optimizer, seed, alpha in points]
    made = packs.make_packs(trials, lambda _: most)
    assert Counter(t.key for pack in made for t in pack) == Counter(t.key for t in trials)
    for pack in made:
        assert len({t.kind for t in pack}) == 1
        assert [t.seed for t in pack] == sorted(t.seed for t in pack)
        assert len(pack) <= most
    counts = Counter(t.optimizer for t in trials)
    sizes = {name: [len(p) for p in made if p[0].optimizer == name] for name in counts}
    for name, count in counts.items():
        assert len(sizes[name]) == -(-count // most)
        assert max(sizes[name]) - min(sizes[name]) <= 1


def grid(optimizers=9, seeds=6):
    names = ("sgd", "sgd-sgd", "sgd-sgdn", "sgdn", "sgdn-sgd", "sgdn-sgdn", "adam", "adam-sgd", "adam-adam")
    return [
        trial(alpha, seed, name)
        for name in names[:optimizers]
        for alpha in (0.01, 0.005, 0.001, 0.0005, 0.0001)
        for seed in range(seeds)
    ]


@pytest.mark.parametrize("slots", [1, 2, 5, 16])
def test_a_grid_is_dealt_in_pieces_of_one_kind_that_balance(slots):
    """Every piece a worker finds has at least eight members, and no bundle waits long for another."""
    trials = grid()
    rates = {("mnist-logreg", t.optimizer): 1e-4 * (1 + len(t.optimizer) / 20) for t in trials}
    planned = plan(trials, slots, rates, lambda _: 256)
    assert sorted(t.key for bundle in planned.bundles for t in bundle) == sorted(t.key for t in trials)
    assert len(planned.bundles) >= slots
    assert min(map(len, planned.packs)) >= 8
    loads = [sum(rates["mnist-logreg", t.optimizer] for t in bundle) for bundle in planned.bundles]
    piece = max(sum(rates["mnist-logreg", t.optimizer] for t in pack) for pack in planned.packs)
    assert max(loads) - min(loads) <= piece
    assert planned == plan(trials, slots, rates, lambda _: 256)


def test_few_trials_are_split_rather_than_leave_a_slot_without_work():
    planned = plan(grid(optimizers=1), 4, {("mnist-logreg", "sgd"): 1e-4}, lambda _: 256)
    assert sorted(map(len, planned.bundles)) == [7, 7, 8, 8]


def test_without_packs_each_trial_is_one():
    planned = plan(grid(), 2)
    assert all(len(pack) == 1 for pack in planned.packs)
    assert len(planned.packs) == 270


def test_a_pack_setting_of_the_study_is_kept_and_changes_no_key(write_study, tmp_path):
    plain, _ = write_study()
    for written, size in ((1, 1), (64, 64), ("auto", None)):
        study, _ = write_study(pack=written)
        assert study.pack == size
        assert [t.key for t in study.trials()] == [t.key for t in plain.trials()]
        again = tmp_path / "again.yaml"
        again.write_text(study.to_yaml())
        assert load_study(again) == study


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0 is out of range"), ("all", "'all' is not a number"), (1.5, "1.5 is not a")]
)
def test_another_pack_setting_is_refused(write_study, value, said):
    with pytest.raises(ConfigError) as refused:
        write_study(pack=value)
    assert [said in problem and "pack" in problem for problem in refused.value.problems] == [True]


def test_what_does_not_pack_is_said_once_with_the_reason(users_workload):
    single = users_workload(model="nn.Sequential(nn.Linear(8, 3), nn.LogSigmoid())")
    trials = [
        *grid(2),
        *(trial(seed=s, workload=single) for s in range(3)),
        trial(workload="no.such:thing"),
    ]
    reasons = pack_limits.unpackable_reasons(trials)
    assert list(reasons) == [single, "no.such:thing"]
    assert "has a LogSigmoid" in reasons[single]
    limit = pack_limits.planned_limit(None, on_gpu=False)
    assert [limit(t) for t in (trials[0], trials[-2], trials[-1])] == [256, 1, 1]
    assert pack_limits.planned_limit(None, on_gpu=True)(trials[0]) == 1024
    assert pack_limits.planned_limit(3, on_gpu=False)(trials[0]) == 3
    assert pack_limits.planned_limit(3, on_gpu=False)(trials[-2]) == 1
    assert pack_limits.planned_limit(None, on_gpu=False)(trial(workload="mnist-mlp")) == 1


@pytest.mark.parametrize("name", ["digits-conv", "cifar10-vgg16"])
def test_convolutions_pack_on_a_gpu_and_on_a_cpu_only_where_the_study_says_so(name):
    """There a convolution with groups is often slower than one convolution after the other."""
    member = trial(workload=name)
    assert pack_limits.unpackable_reason(member) is None
    assert pack_limits.planned_limit(None, on_gpu=True)(member) == 1024
    assert pack_limits.planned_limit(None, on_gpu=False)(member) == 1
    assert pack_limits.planned_limit(4, on_gpu=False)(member) == 4


def test_members_that_fit_into_memory_by_hand():
    """1000 parameters of four bytes ten times; the layer keeps its input, cross-entropy its log-softmax."""

    def build():
        return nn.Linear(100, 10, bias=False)

    rows = 50
    data = Data(torch.zeros(rows, 100), torch.zeros(rows).long(), torch.zeros(1, 100), torch.zeros(1).long())
    work = Workload("w", lambda _: data, build)
    least = 10 * 4000 + 2 * 4 * (rows * 100 + rows * 10)
    members = pack_limits.fitting_members(work, data, rows, 1e8)
    assert 0.7 * 1e8 / least < members <= 1e8 / least
    assert pack_limits.fitting_members(work, data, rows, 1.0) == 1
