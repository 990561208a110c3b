"""A pack on the GPU against each of its trials trained alone, on the CPU and on the GPU."""

from __future__ import annotations

import pytest
import torch

from study.config.trial import Trial
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training

from .problems import CPU, MODELS, NOISY, alone, assert_same, grid, through_a_file, together, workload

pytestmark = pytest.mark.gpu
OPTIMIZERS = ("sgd", "sgd-sgd", "sgd-sgdn", "sgdn", "sgdn-sgdn", "sgdn-lion", "adam", "adam-sgd", "adam-adam")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_member_trains_as_it_would_alone_on_the_cpu(optimizer, device):
    work, trials = workload(), grid(optimizer)
    ours = together(trials, work, device)
    assert_same(ours, alone(trials, work, CPU))
    assert len({records[-1].val_loss for records in ours.values()}) == len(trials)


@pytest.mark.parametrize("granularity", ["tensor", "released"])
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam"])
def test_every_granularity_of_a_pack(optimizer, granularity, device):
    work, trials = workload(), grid(optimizer, granularity)
    assert_same(together(trials, work, device), alone(trials, work, CPU))


@pytest.mark.parametrize("seeds", [(3,), (2, 2, 2, 2), (0, 1, 2), (0, 0, 1, 1), (5, 0, 5, 1)])
@pytest.mark.parametrize("model", MODELS)
def test_a_pack_of_any_model_on_any_number_of_streams(model, seeds, device):
    work, trials = workload(model), grid("adam-adam", seeds=seeds, epochs=2)
    assert_same(together(trials, work, device), alone(trials, work, device))


def test_members_of_a_pack_reach_their_own_budgets(device):
    work = workload()
    budgets = [{"iterations": n, "epochs": None} for n in (1, 5, 12)] + [{"epochs": 2}, {"epochs": 4}]
    base = grid("adam-sgdn", seeds=(0, 1, 0, 2, 2))
    trials = [Trial(**one.settings() | budget) for one, budget in zip(base, budgets, strict=True)]
    ours = together(trials, work, device)
    assert [ours[trial.key][-1].last_iteration for trial in trials] == [1, 5, 12, 10, 20]
    assert_same(ours, alone(trials, work, CPU))


@pytest.mark.parametrize("optimizer", ["sgdn-adam", "adam-adam"])
def test_members_of_a_pack_are_saved_and_resumed_in_a_pack_or_alone(optimizer, device, tmp_path):
    work, trials = workload(), grid(optimizer, seeds=(0, 2, 2))
    whole, data = alone(trials, work, CPU), work.load(None).to(device)
    pack = PackTraining(trials, work, data, device)
    next(pack.epochs())
    states = {trial.key: through_a_file(pack.state_dict(trial), tmp_path / "s.pt") for trial in trials}
    rest = {key: records[1:] for key, records in whole.items()}
    assert_same(together(trials, work, device, states), rest)
    for where in (device, CPU):
        single = Training(trials[1], work, work.load(None).to(where), where)
        single.load_state_dict(states[trials[1].key])
        assert_same({trials[1].key: list(single.epochs())}, {trials[1].key: rest[trials[1].key]})


@pytest.mark.parametrize("seeds", [(2, 2, 2), (0, 1, 2), (5, 0, 5, 1)])
def test_a_pack_draws_on_the_device_what_its_trials_draw_alone(seeds, device):
    trials = grid("adam-adam", seeds=seeds)
    assert_same(together(trials, NOISY, device), alone(trials, NOISY, device))


def test_a_float32_pack_differs_from_its_trials_by_rounding(device):
    work, trials = workload(dtype=torch.float32), grid("adam-adam")
    assert_same(together(trials, work, device), alone(trials, work, device), rtol=3e-4)
