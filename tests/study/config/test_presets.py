"""The presets against the numbers of the paper, counted by hand."""

from collections import Counter

import pytest

from study.config.catalogue import CATALOGUE
from study.config.loader import ConfigError, load_study, preset_names, preset_path
from study.training import optimizers

NINE = ["sgd", "sgd-sgd", "sgd-sgdn", "sgdn", "sgdn-sgd", "sgdn-sgdn", "adam", "adam-sgd", "adam-adam"]
FIVE = (0.01, 0.005, 0.001, 0.0005, 0.0001)
# name: workloads, α₀, β of op Adam, seeds, epochs, granularity of op Adam, trials
EXPECTED = {
    "quickstart": (["digits-logreg", "digits-mlp"], (0.01, 0.001, 0.0001), 1e-5, 6, 20, "group", 324),
    "figure1-logreg": (["mnist-logreg"], (0.001,), 1e-7, 3, 20, "released", 27),
    "figure1-mlp": (["mnist-mlp"], (0.001,), 1e-7, 3, 100, "released", 27),
    "figure1-vgg": (["cifar10-vgg16"], (0.001,), 1e-8, 1, 200, "released", 9),
    "alpha0-logreg": (["mnist-logreg"], FIVE, 1e-7, 6, 20, "released", 270),
    "alpha0-mlp": (["mnist-mlp"], FIVE, 1e-7, 6, 20, "released", 270),
    "alpha0-mlp-short": (["mnist-mlp"], FIVE, 1e-7, 6, 1, "released", 270),
    "alpha0-vgg": (["cifar10-vgg16"], FIVE, 1e-8, 1, 200, "released", 45),
}


def test_these_are_all():
    assert preset_names() == sorted([*EXPECTED, "no-tuning", "rivals", "search-logreg"])


def test_the_search_has_as_many_trials_of_each_optimizer_as_the_grid_it_is_compared_with():
    search, grid = load_study("search-logreg"), load_study("alpha0-logreg")
    assert Counter(t.optimizer for t in search.planned_trials()) == Counter(
        t.optimizer for t in grid.trials()
    )
    assert search.seeds == grid.seeds
    same = ("workloads", "optimizers", "epochs", "batch_size", "weight_decay", "granularity", "thresholds")
    assert [getattr(search, name) for name in same] == [getattr(grid, name) for name in same]
    betas = {t.optimizer: t.beta for t in grid.trials() if t.lop}
    for arm in search.arms():
        assert all(alpha0 in arm.alpha0 for alpha0 in FIVE)
        assert arm.beta is None or betas[arm.template.optimizer] in arm.beta


@pytest.mark.parametrize("name", EXPECTED)
def test_settings(name):
    workloads, alpha0, adam_beta, seeds, epochs, granularity, count = EXPECTED[name]
    study = load_study(name)
    trials = study.trials()
    assert study.name == name
    assert study.description
    assert len(trials) == len({t.key for t in trials}) == count
    assert list(dict.fromkeys(t.workload for t in trials)) == workloads
    assert set(Counter(t.optimizer for t in trials).values()) == {count // 9}
    assert list(dict.fromkeys(t.optimizer for t in trials)) == NINE
    assert tuple(dict.fromkeys(t.alpha0 for t in trials)) == alpha0
    assert {t.seed for t in trials} == set(range(seeds))
    assert {(t.epochs, t.batch_size, t.weight_decay) for t in trials} == {(epochs, 128, 1e-4)}
    learned = {t.optimizer: (t.beta, t.granularity) for t in trials if t.lop}
    assert learned == {
        **dict.fromkeys(["sgd-sgd", "sgd-sgdn", "sgdn-sgd", "sgdn-sgdn"], (1e-3, "group")),
        **dict.fromkeys(["adam-sgd", "adam-adam"], (adam_beta, granularity)),
    }
    assert study.resources.gpus == (1 if "vgg" in name else 0)


def test_rivals_have_the_same_tuning_budget_as_the_papers_optimizers():
    study = load_study("rivals")
    trials = study.trials()
    assert len(trials) == len({t.key for t in trials}) == 2 * 16 * 4 * 7
    labels = list(dict.fromkeys(t.label for t in trials))
    assert labels[:9] == NINE
    assert len(labels) == 16
    points = {(t.workload, t.label, t.alpha0, t.beta) for t in trials}
    assert Counter((workload, label) for workload, label, *_ in points) == {
        (workload, label): 4 for workload in ("digits-logreg", "mnist-logreg") for label in labels
    }
    assert Counter((t.workload, t.label, t.alpha0, t.beta) for t in trials) == dict.fromkeys(points, 7)
    assert {t.seed for t in trials} == set(range(7))


def test_everything_without_tuning_is_tried_from_every_alpha0_on_every_small_workload():
    study = load_study("no-tuning")
    trials = study.trials()
    workloads = [name for name in CATALOGUE if not name.startswith(("mnist", "cifar", "imagefolder"))]
    assert len(workloads) == 13
    assert sorted({t.workload for t in trials}) == sorted(workloads)
    labels = {t.label for t in trials}
    alpha0 = tuple(10.0**k for k in range(-6, 1))
    assert len(trials) == len({t.key for t in trials}) == 13 * len(labels) * 7 * 6
    for label in labels:
        assert tuple(sorted({t.alpha0 for t in trials if t.label == label})) == pytest.approx(alpha0)
    assert {t.seed for t in trials} == set(range(6))
    assert {(t.iterations, t.batch_size) for t in trials} == {(600, 64)}
    assert all(study.default_alpha0(t) in alpha0 for t in trials)
    assert set(study.untuned.optimizers) < labels
    assert study.untuned.alpha0.low == pytest.approx(1e-6)
    assert len(study.untuned.rivals) == 3, "3/64 is the most that six seeds leave below 5 %"


@pytest.mark.parametrize("name", ["rivals", "no-tuning"])
def test_rivals_can_be_had(name):
    for trial in load_study(name).trials():
        if "." in trial.optimizer:
            pytest.importorskip(trial.optimizer.partition(".")[0])
            optimizers.check(trial)


@pytest.mark.parametrize("name", [*EXPECTED, "no-tuning", "rivals", "search-logreg"])
def test_the_file_is_a_start_for_ones_own(name, tmp_path):
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(preset_path(name).read_bytes())
    assert load_study(copy) == load_study(name)
    copy.write_text(load_study(name).to_yaml(), encoding="utf-8")
    assert load_study(copy) == load_study(name)
    header = preset_path(name).read_text(encoding="utf-8").partition("name:")[0]
    assert "H. Mittal" in header
    assert f"plan {name}" in header


def test_thresholds_of_the_paper():
    study = load_study("alpha0-vgg")
    thresholds = {t.op: study.threshold(t) for t in study.trials()}
    assert thresholds == {"sgd": 0.75, "sgdn": 0.3, "adam": 0.2}


def test_unknown_preset():
    with pytest.raises(ConfigError, match="did you mean quickstart"):
        preset_path("quikstart")
