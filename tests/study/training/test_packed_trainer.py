"""A pack against each of its trials trained alone by ``study.training.trainer``."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from study.config.optimizer_name import OPTIMIZERS, RULES
from study.config.trial import GRANULARITIES, Trial
from study.training import stacked_model
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import models
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small are trained by waiting for each other's threads otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


STACKING = [name for name in OPTIMIZERS if not name.startswith("muon")]  # which knows no members
CURVES = ("train_loss", "alpha", "hypergradient", "alpha_tensors")


def digits(dtype, folder=None) -> Data:
    """Three noisy classes in 6 dimensions, 77 rows to train on: the last batch of 16 is short."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(100) % 3
    inputs = torch.randn(100, 6, generator=random, dtype=torch.float64) + targets[:, None]
    inputs = inputs.to(dtype)
    return Data(inputs[:77], targets[:77], inputs[77:], targets[77:])


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    )


MODELS = {
    "logreg": partial(models.logreg, 6, 3),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 7),
        nn.Tanh(),
        nn.Sequential(nn.Linear(7, 5, bias=False), nn.ReLU()),
        nn.Linear(5, 3),
    ),
    "convolutional": convolutional,
}


def workload(model="mlp", dtype=torch.float64, **more) -> Workload:
    return Workload(model, partial(digits, dtype), lambda: MODELS[model]().to(dtype), **more)


def grid(optimizer, granularity="group", seeds=(0, 1, 1, 1, 4), **more) -> list[Trial]:
    """Trials of different α₀ and β, on as many streams of data as there are seeds."""
    alpha0, beta = (0.003, 1e-5) if optimizer.startswith("adam") else (0.05, 1e-3)
    more = {"epochs": 3, "batch_size": 16, "granularity": granularity, "weight_decay": 0.01} | more
    return [
        Trial("w", optimizer, alpha0 * (1 + i / 2), beta / (1 + i), seed=seed, **more)
        for i, seed in enumerate(seeds)
    ]


def alone(trials, work):
    data = work.load(None)
    return {trial.key: list(Training(trial, work, data, CPU).epochs()) for trial in trials}


def packed(training):
    records = {trial.key: [] for trial in training.trials}
    for epoch in training.epochs():
        for trial, record in epoch:
            records[trial.key].append(record)
    return records


def together(trials, work):
    return packed(PackTraining(trials, work, work.load(None), CPU))


def assert_same(ours, theirs, rtol=1e-10):
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert [r.epoch for r in ours[key]] == [r.epoch for r in theirs[key]]
        assert [r.first_iteration for r in ours[key]] == [r.first_iteration for r in theirs[key]]
        for mine, other in zip(ours[key], theirs[key], strict=True):
            for name in CURVES:
                a, b = getattr(mine, name), getattr(other, name)
                assert (a is None) == (b is None)
                if a is not None:
                    assert a.dtype == b.dtype
                    # h passes through zero: what counts is its size beside the curve's
                    scale = np.nanmax(np.abs(b), initial=0.0) if np.isfinite(b).all() else 0.0
                    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=name)
            np.testing.assert_allclose(mine.val_loss, other.val_loss, rtol=rtol)
            assert mine.val_accuracy == other.val_accuracy
            assert mine.diverged == other.diverged


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("optimizer", STACKING)
def test_in_float64_every_member_trains_as_it_would_alone(optimizer, granularity):
    work, trials = workload(), grid(optimizer, granularity)
    ours = together(trials, work)
    assert_same(ours, alone(trials, work))
    assert len({records[-1].val_loss for records in ours.values()}) == len(trials)


@pytest.mark.parametrize("rule", RULES[1:])
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam", "adamw-sgdn"])
def test_a_pack_learns_by_its_rule(optimizer, rule):
    """Each member as it would alone, and by another rule than the additive one."""
    work, trials = workload(), grid(optimizer, rule=rule)
    trials = [replace(trial, beta=10 * trial.beta) for trial in trials]
    ours, additive = together(trials, work), together([replace(t, rule="additive") for t in trials], work)
    assert_same(ours, alone(trials, work))
    for mine, other in zip(ours.values(), additive.values(), strict=True):
        assert not np.array_equal(mine[-1].alpha, other[-1].alpha)


@pytest.mark.parametrize("seeds", [(3,), (2, 2, 2, 2), (0, 1, 2), (0, 0, 1, 1), (5, 0, 5, 1)])
@pytest.mark.parametrize("model", MODELS)
def test_any_model_that_stacks_on_any_number_of_streams(model, seeds):
    work, trials = workload(model), grid("sgdn-adam", seeds=seeds)
    assert stacked_model.unstackable_reason(work) is None
    assert_same(together(trials, work), alone(trials, work))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgd", "sgdn-sgdn", "adam-adam"])
def test_in_float32_the_curves_differ_by_rounding(optimizer, model):
    """A few hundred units in the last place after 15 iterations; 1e-2 would be another seed or another α₀."""
    work, trials = workload(model, torch.float32), grid(optimizer)
    ours, theirs = together(trials, work), alone(trials, work)
    assert_same(ours, theirs, rtol=3e-4)
    assert all(record.train_loss.dtype == np.float32 for records in ours.values() for record in records)


def test_another_loss_is_mapped_over_the_members():
    def smoothed(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    work, trials = workload(loss=smoothed), grid("adam-sgd")
    assert_same(together(trials, work), alone(trials, work))


def test_targets_that_the_loss_ignores_are_ignored():
    def load(folder):
        data = digits(torch.float64)
        return Data(
            data.train_inputs,
            data.train_targets.where(data.train_targets > 0, -100),
            data.val_inputs,
            data.val_targets,
        )

    work, trials = Workload("ignoring", load, workload().build), grid("sgd-sgd")
    assert_same(together(trials, work), alone(trials, work))


@pytest.mark.parametrize("block_bytes", [1, 3000])
def test_members_move_a_block_at_a_time(block_bytes, monkeypatch):
    work, trials = workload(), grid("adam-adam", granularity="tensor", seeds=range(7))
    whole = together(trials, work)
    monkeypatch.setattr("hypergrad.stacked.BLOCK_BYTES", block_bytes)
    assert_same(together(trials, work), whole)


def divergent(**more):
    """β of the middle member is far too large: its loss overflows in the second or third epoch."""
    trials = grid("sgd-sgd", seeds=(0, 0, 1), epochs=6)
    return [trials[0], Trial(**trials[1].settings() | {"beta": 3.0, **more}), trials[2]]


def fourth_power(outputs, targets):
    return (outputs**4).mean() + nn.functional.cross_entropy(outputs, targets)


def test_a_member_that_diverges_ends_as_it_would_alone_and_the_others_do_not_notice():
    work = workload(loss=fourth_power)
    trials = divergent()
    ours, theirs = together(trials, work), alone(trials, work)
    ends = [len(theirs[trial.key]) for trial in trials]
    assert (ends[0], ends[2]) == (6, 6)
    assert ends[1] < 6
    last = ours[trials[1].key][-1]
    assert last.diverged
    assert last.iterations == theirs[trials[1].key][-1].iterations
    assert np.isfinite(last.train_loss[:-1]).all()
    healthy = {trials[0].key, trials[2].key}
    assert_same(
        {key: records for key, records in ours.items() if key in healthy},
        {key: records for key, records in theirs.items() if key in healthy},
    )
    without = together([trials[0], trials[2]], work)
    assert_same({key: ours[key] for key in healthy}, without)


def test_members_reach_their_own_budgets():
    """Five iterations an epoch: budgets that end in an epoch, with it, and after others have ended."""
    work = workload()
    budgets = [{"iterations": n, "epochs": None} for n in (1, 4, 5, 12, 12)] + [{"epochs": 2}, {"epochs": 4}]
    base = grid("adam-sgdn", seeds=(0, 1, 0, 1, 2, 2, 0))
    trials = [Trial(**trial.settings() | budget) for trial, budget in zip(base, budgets, strict=True)]
    ours = together(trials, work)
    assert [ours[trial.key][-1].last_iteration for trial in trials] == [1, 4, 5, 12, 12, 10, 20]
    assert_same(ours, alone(trials, work))


def test_a_member_can_be_stopped_between_epochs():
    work, trials = workload(), grid("sgdn-sgd", seeds=(0, 0, 1))
    training = PackTraining(trials, work, work.load(None), CPU)
    rest = {trial.key: [] for trial in trials}
    for number, epoch in enumerate(training.epochs(), start=1):
        for trial, record in epoch:
            rest[trial.key].append(record)
        if number == 1:
            training.stop([trials[0].key])
    assert [len(rest[trial.key]) for trial in trials] == [1, 3, 3]
    theirs = alone(trials, work)
    theirs[trials[0].key] = theirs[trials[0].key][:1]
    assert_same(rest, theirs)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("optimizer", STACKING)
def test_saved_members_go_on_in_a_pack_or_alone_and_single_trials_in_a_pack(optimizer, granularity, tmp_path):
    work, trials = workload(), grid(optimizer, granularity, seeds=(0, 2, 2))
    data, whole = work.load(None), alone(trials, work)

    def stored(state):
        torch.save(state, tmp_path / "state.pt")
        return torch.load(tmp_path / "state.pt", weights_only=True)

    pack = PackTraining(trials, work, data, CPU)
    epochs = pack.epochs()
    first = dict(next(epochs))
    states = {trial.key: stored(pack.state_dict(trial)) for trial in trials}
    next(epochs)  # what is saved does not change as the training goes on
    again = packed(PackTraining(trials[1:], work, data, CPU, states))
    for trial in trials:
        single = Training(trial, work, data, CPU)
        single.load_state_dict(states[trial.key])
        assert_same({trial.key: [first[trial], *single.epochs()]}, {trial.key: whole[trial.key]})
    for trial in trials[1:]:
        assert_same({trial.key: [first[trial], *again[trial.key]]}, {trial.key: whole[trial.key]})

    singles = [Training(trial, work, data, CPU) for trial in trials]
    for single in singles:
        next(single.epochs())
    states = {trial.key: stored(single.state_dict()) for trial, single in zip(trials, singles, strict=True)}
    after = packed(PackTraining(trials, work, data, CPU, states))
    assert_same(after, {key: records[1:] for key, records in whole.items()})


def test_a_members_checkpoint_holds_its_own_tensors_only():
    """A view of the stacked tensor would be stored with all of it."""
    work, trials = workload(), grid("adam-adam", seeds=range(50), epochs=2)
    pack = PackTraining(trials, work, work.load(None), CPU)
    next(pack.epochs())

    def stored_bytes(value):
        if isinstance(value, torch.Tensor):
            return value.untyped_storage().nbytes()
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return sum(map(stored_bytes, children))

    single = Training(trials[0], work, work.load(None), CPU)
    next(single.epochs())
    assert stored_bytes(pack.state_dict(trials[0])) == stored_bytes(single.state_dict())


def test_what_does_not_pack_is_refused():
    work, trials = workload(), grid("adam-adam")
    data = work.load(None)
    other = Trial(**trials[0].settings() | {"weight_decay": 0.5})
    assert other.kind != trials[0].kind == trials[3].kind
    with pytest.raises(ValueError, match=f"{trials[1].key} and {other.key} do not pack"):
        PackTraining([trials[1], other], work, data, CPU)
    with pytest.raises(ValueError, match="none of them twice"):
        PackTraining([trials[0], trials[0]], work, data, CPU)
    pack = PackTraining(trials, work, data, CPU)
    epochs = pack.epochs()
    next(epochs)
    states = {trial.key: pack.state_dict(trial) for trial in trials[:2]}
    with pytest.raises(ValueError, match=f"no checkpoint of trial {trials[2].key}"):
        PackTraining(trials[:3], work, data, CPU, states)
    next(epochs)
    states[trials[1].key] = pack.state_dict(trials[1])
    with pytest.raises(ValueError, match=r"equally many iterations, got \[5, 10\]"):
        PackTraining(trials[:2], work, data, CPU, states)


class Custom(nn.Module):
    def forward(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.AlphaDropout()), "has a AlphaDropout"),
        (lambda: nn.Sequential(nn.Linear(6, 6), *[nn.Dropout()] * 2), "uses one Dropout in several places"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, momentum=None)), "over all batches"),
        (lambda: nn.Sequential(nn.Linear(6, 3), nn.SyncBatchNorm(3)), "has a SyncBatchNorm"),
        (lambda: nn.Sequential(nn.Linear(6, 3), Custom()), "has a Custom"),
        (lambda: nn.Sequential(nn.GRU(6, 3)), "has a GRU"),
        (lambda: nn.Sequential(nn.Flatten()), "no parameters"),
        (lambda: nn.Linear(6, 3).requires_grad_(False), "frozen"),
        (lambda: nn.Sequential(*[nn.Linear(3, 3)] * 2), "share parameters"),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), "Linear"),
    ],
)
def test_why_a_model_does_not_stack(build, reason):
    assert reason in stacked_model.unstackable_reason(Workload("w", lambda _: None, build))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (partial(nn.GRU, 6, 3, bidirectional=True), "GRU"),
        (partial(nn.GRU, 6, 3, num_layers=2, dropout=0.5), "GRU"),
        (partial(nn.LSTM, 6, 3), "LSTM"),
    ],
)
def test_recurrent_layers_that_do_not_stack_whatever_their_author_says(layer, name):
    work = Workload("w", lambda _: None, lambda: nn.ModuleDict({"own": layer()}), stacks=True)
    assert f"its {name} cannot be mapped" in stacked_model.unstackable_reason(work)


def test_asking_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    assert stacked_model.unstackable_reason(workload()) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_read_back_more_often_in_a_longer_epoch():
    """Adam's step count, which lies on the CPU for this purpose, apart: Adam is not looked at here."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class CountReads(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.reads += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    counts = []
    for batch_size in (77, 4):
        trials = grid("sgdn-adam", seeds=(0, 0, 1), epochs=1, batch_size=batch_size)
        with CountReads() as mode:
            together(trials, workload())
        counts.append(mode.reads)
    assert counts[0] == counts[1]
    assert math.isfinite(counts[0])
