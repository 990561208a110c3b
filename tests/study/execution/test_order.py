"""The order of trials of which not all may train: at any end, optimizers have about the same coverage."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.execution import order, planning


def alone(trial):
    return 1


@given(st.integers(0, 40))
def test_a_grid_is_refined(count):
    places = order.coarse_first(count)
    assert sorted(places) == list(range(count))
    for known in range(1, count):
        gaps = sorted([*places[:known], -1, count])
        widest = max(right - left for left, right in itertools.pairwise(gaps))
        assert widest <= 2 * count / known + 1, "no part of the grid waits much longer than others"


def test_the_middle_and_the_ends_come_first():
    assert order.coarse_first(7)[:3] == [3, 0, 6]
    assert order.coarse_first(1) == [0]


def test_waves_are_of_1_1_2_4_seeds(write_study):
    study, _ = write_study(optimizers=["sgd", "adam"], alpha0=[0.1, 0.01], seeds=9)
    waves = order.waves(study, study.trials(), lambda trial: 256)
    assert [sorted({t.seed for t in wave}) for wave in waves] == [[0], [1], [2, 3], [4, 5, 6, 7], [8]]
    assert all(len(wave) == 4 * len({t.seed for t in wave}) for wave in waves)


def test_seeds_count_by_their_place_in_the_file(write_study):
    study, _ = write_study(optimizers=["sgd"], seeds=[7, 3, 11])
    waves = order.waves(study, study.trials(), alone)
    assert [[t.seed for t in wave] for wave in waves] == [[7], [3], [11]]


@pytest.mark.parametrize("ended", range(1, 56))
def test_at_any_end_all_optimizers_have_the_same_alpha0_of_the_same_seeds(write_study, ended):
    """Of optimizers that do not pack; one of them has a grid of its own."""
    study, _ = write_study(
        optimizers=["sgd", "torch.optim.AdamW", {"name": "adam", "alpha0": [1e-5, 1e-4, 1e-3]}],
        alpha0=[1e-3, 1e-2, 1e-1],
        workloads=["digits-logreg", "digits-mlp"],
        seeds=3,
    )
    waves = order.waves(study, study.trials(), alone)
    assert len(study.trials()) == 54
    done = [trial for wave in waves for trial in wave][:ended]
    places = {alpha0: i for grid in ([1e-3, 1e-2, 1e-1],) for i, alpha0 in enumerate(grid)}
    covered = {}
    for trial in done:
        place = places[trial.alpha0] if trial.label != "adam" else [1e-5, 1e-4, 1e-3].index(trial.alpha0)
        covered.setdefault((trial.workload, trial.label), set()).add((trial.seed, place))
    for points in covered.values():
        for others in covered.values():
            assert len(points ^ others) <= 1
    seeds = Counter(trial.seed for trial in done)
    whole = [seed for seed in range(3) if seeds[seed] == 18]
    assert sorted(seeds)[: len(whole)] == whole


def test_bundles_come_wave_by_wave_and_hold_every_trial_once(write_study):
    study, _ = write_study(optimizers=["sgd", "adam"], alpha0=[0.1, 0.01], seeds=4)
    bundles = planning.in_waves(study, study.trials(), 2, {}, lambda trial: 256)
    seeds = [{trial.seed for trial in bundle} for bundle in bundles]
    assert [min(s) for s in seeds] == sorted(min(s) for s in seeds)
    assert sorted(t.key for bundle in bundles for t in bundle) == sorted(t.key for t in study.trials())


def test_only_what_surely_fits_is_said_to_fit():
    assert order.fits(100, 131)
    assert not order.fits(100, 129)
    assert not order.fits(None, 1e9)
