"""Packs whose iteration is a CUDA graph, over several epochs. In a file of their own: a fault spoils all."""

from __future__ import annotations

import pytest
import torch

from study.config.trial import Trial
from study.training.packed_trainer import PackTraining

from .problems import CPU, MODELS, NOISY, alone, assert_same, grid, through_a_file, together, workload

pytestmark = pytest.mark.gpu


@pytest.fixture
def replays(monkeypatch):
    """How often a graph was replayed."""
    count = [0]
    replay = torch.cuda.CUDAGraph.replay

    def counted(graph):
        count[0] += 1
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counted)
    return count


@pytest.mark.parametrize("seeds", [(3,), (2, 2, 2), (0, 1, 2), (5, 0, 5, 1)])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam"])
def test_a_captured_pack_over_epochs_is_its_trials_alone(optimizer, model, seeds, device, replays):
    """Five epochs, in each a short last batch, and between them memory that was freed is used by others."""
    work, trials = workload(model), grid(optimizer, seeds=seeds, epochs=5)
    assert_same(together(trials, work, device, capture=True), alone(trials, work, CPU))
    if device.type == "cuda":
        assert replays[0] > 0


@pytest.mark.parametrize("seeds", [(2, 2, 2), (5, 0, 5, 1)])
def test_what_a_captured_pack_draws_is_drawn_anew_for_every_iteration(seeds, device):
    """Augmentation and dropout are drawn outside of the graph; batch norm's statistics move within it."""
    trials = grid("adam-adam", seeds=seeds)
    assert_same(together(trials, NOISY, device, capture=True), alone(trials, NOISY, device))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "sgd-sgd", "adam-sgd", "adam-lion"])
@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
def test_every_rule_in_a_captured_pack(optimizer, granularity, device):
    work, trials = workload(), grid(optimizer, granularity)
    assert_same(together(trials, work, device, capture=True), alone(trials, work, CPU))


@pytest.mark.parametrize("model", MODELS)
def test_members_leave_a_captured_pack(model, device):
    """The graph is captured anew for those that stay, in an epoch and between two."""
    work = workload(model)
    budgets = [{"iterations": n, "epochs": None} for n in (3, 5, 13)] + [{"epochs": 3}, {"epochs": 6}]
    base = grid("adam-adam", seeds=(0, 1, 0, 2, 2))
    trials = [Trial(**one.settings() | budget) for one, budget in zip(base, budgets, strict=True)]
    assert_same(together(trials, work, device, capture=True), alone(trials, work, CPU))


def test_a_captured_pack_is_saved_and_resumed(device, tmp_path):
    work, trials = workload("convolutional"), grid("adam-adam", seeds=(0, 2, 2))
    pack = PackTraining(trials, work, work.load(None).to(device), device, capture=True)
    epochs = pack.epochs()
    next(epochs)
    next(epochs)
    states = {trial.key: through_a_file(pack.state_dict(trial), tmp_path / "s.pt") for trial in trials}
    next(epochs)  # what was saved does not change as the training continues
    whole = alone(trials, work, CPU)
    after = together(trials, work, device, states, capture=True)
    assert_same(after, {key: records[2:] for key, records in whole.items()})
