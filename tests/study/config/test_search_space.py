"""What a study file may ask a search for, and which trials come of it."""

import pytest

from study.config.loader import ConfigError, Trial, load_study
from study.config.search_section import Search
from study.config.search_space import Arm, SearchState
from study.config.sections import Range

RANGE = {"low": 1e-4, "high": 1.0}
SEARCH = {"search": "optuna", "alpha0": RANGE, "beta": {"sgd": {"low": 1e-6, "high": 1e-1}, "adam": 1e-5}}


class TestStudyFile:
    def test_the_shorthand_stands_for_the_defaults_and_is_written_out(self, write_study, tmp_path):
        study, _ = write_study(**SEARCH)
        assert study.search == Search()
        assert (study.search.sampler, study.search.points, study.search.seeds) == ("tpe", 20, (1000, 1001))
        copy = tmp_path / "copy.yaml"
        copy.write_text(study.to_yaml())
        assert load_study(copy) == study
        assert write_study(**{**SEARCH, "search": "gp"})[0].search.sampler == "gp"

    def test_everything_survives_to_yaml(self, searched, tmp_path):
        study = searched(
            sampler="qmc",
            args={"qmc_type": "halton", "scramble": True},
            seeds=[7, 5],
            objective="iterations_to_threshold",
            parallel=3,
            scheduler={"name": "asha", "grace": 2},
            optimizers=["sgd", {"name": "adam-adam", "alpha0": 0.1, "beta": {"low": 1e-7, "high": 1e-3}}],
        )
        copy = tmp_path / "copy.yaml"
        copy.write_text(study.to_yaml())
        again = load_study(copy)
        assert again == study
        assert [arm.key for arm in again.arms()] == [arm.key for arm in study.arms()]

    def test_every_optimizer_on_every_workload_is_an_arm_of_its_own(self, searched):
        study = searched(
            workloads=["digits-logreg", "digits-mlp"], optimizers=["sgd", "sgd-sgd", "adam-adam"]
        )
        assert [(arm.template.workload, arm.template.optimizer, list(arm.space)) for arm in study.arms()] == [
            (workload, optimizer, space)
            for workload in ("digits-logreg", "digits-mlp")
            for optimizer, space in (
                ("sgd", ["alpha0"]),
                ("sgd-sgd", ["alpha0", "beta"]),
                ("adam-adam", ["alpha0"]),
            )
        ]
        # 4 points on 2 seeds, and the best on the study's 2.
        assert len(study.planned_trials()) == 6 * (4 * 2 + 2)
        assert study.trials() == []

    def test_an_arms_key_never_changes(self):
        """A changed key begins every stored search anew."""
        arm = Arm(Trial("w:f", "sgd-sgd", 0, 0, 0, 20), Range(low=1e-5, high=1), 0.001, Search())
        assert arm.key == "d1fb5a90e0f491e2"

    @pytest.mark.parametrize(
        ("change", "same"),
        [
            *(({"points": 9}, True), ({"seeds": 5}, True), ({"parallel": 2}, True)),
            *(({"scheduler": "asha"}, True), ({"threshold": 1.0}, True), ({"seed": 1}, False)),
            *(({"sampler": "gp"}, False), ({"args": {"n_startup_trials": 3}}, False), ({"epochs": 3}, False)),
            *(({"objective": "final_train_loss"}, False), ({"alpha0": {"low": 1e-4, "high": 2.0}}, False)),
        ],
    )
    def test_what_makes_another_search(self, searched, change, same):
        assert (
            [arm.key for arm in searched(**change).arms()] == [arm.key for arm in searched().arms()]
        ) is same

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"search": None, "beta": 1}, "alpha0: a range needs a search; write search: optuna as well"),
            (
                {"search": None, "alpha0": 1, "beta": {"sgd": RANGE, "adam": 1}},
                "beta.sgd: a range needs a search;",
            ),
            (
                {"search": None, "alpha0": 1, "beta": 1, "scheduler": "asha"},
                "scheduler: only a search may stop",
            ),
            ({"search": "optnua"}, "search: 'optnua' is not a search or a sampler; did you mean optuna?"),
            ({"search": {"sampler": "tep"}}, "search.sampler: 'tep' is not a sampler; did you mean tpe?"),
            ({"search": {"point": 3}}, "search.point: unknown key; did you mean points?"),
            ({"search": {"points": 0}}, "search.points: 0 is out of range;"),
            ({"search": {"objective": "loss"}}, "search.objective: 'loss' is not an objective; "),
            ({"search": {"args": {"seed": 3}}}, "search.args: the sampler's seed is not an argument here;"),
            ({"search": {"args": {"x": [1]}}}, "search.args.x: a list cannot be an argument;"),
            ({"search": {"seeds": [0]}, "seeds": 2}, "search.seeds: 0 is one of the study's seeds;"),
            ({"search": 3}, "search: 3 is not a mapping;"),
            ({"search": {"points": 10_000, "seeds": 10}}, "the search has 300,006 trials; at most 100,000"),
            ({"scheduler": "fifo"}, "scheduler: 'fifo' is not a scheduler; known are asha"),
            ({"scheduler": {"reduction": 1}}, "scheduler.reduction: 1 is out of range;"),
            (
                {"alpha0": [0.1, 1]},
                "alpha0: 2 values; with a search write {low: 1e-5, high: 1}, or one value",
            ),
            ({"alpha0": {"low": 1, "high": 1}}, "alpha0.high: 1 is not above low; write a larger number,"),
            ({"alpha0": {"low": 0, "high": 1}}, "alpha0.low: 0 is out of range; write a number from 1e-12"),
            ({"alpha0": {"low": 1}}, "alpha0.high: missing; write e.g. high: 1.0"),
            ({"alpha0": {"low": 1, "high": 2, "step": 1}}, "alpha0.step: unknown key; known are low, high"),
            ({"beta": {"low": 1, "high": "x"}}, "beta.high: 'x' is not a number;"),
            ({"alpha0": 0.1}, "optimizers[0]: nothing to search for; write a range for alpha0 or beta"),
            (
                {"search": {"objective": "iterations_to_threshold"}, "threshold": {"sgd": 1}},
                "search.objective: there is no threshold for adam-adam on digits-logreg;",
            ),
        ],
    )
    def test_one_line_with_place_and_remedy(self, write_study, change, problem):
        with pytest.raises(ConfigError) as caught:
            write_study(**{**SEARCH, **change})
        found = [line.split(": ", 1)[1] for line in caught.value.problems]
        assert any(line.startswith(problem) for line in found), found
        assert len(found) == (2 if "nothing to search" in problem else 1)

    def test_a_grid_is_what_it_was(self, write_study):
        study, _ = write_study()
        assert study.planned_trials() == study.trials() == study.reported()
        assert study.placeholder_trials() == study.arms() == []


class TestTrials:
    def test_the_trials_of_a_search_are_those_of_its_points(self, searched):
        study = searched(optimizers=["sgd", "sgd-sgd"], seeds=[5], points=2)
        sgd, learned = study.arms()
        first, second = sgd.point(0, {"alpha0": 0.1}), sgd.point(1, {"alpha0": 0.2})
        other = learned.point(0, {"alpha0": 0.3, "beta": 1e-3})
        beyond = sgd.point(2, {"alpha0": 0.9})
        found = SearchState((first, other, second, beyond), ((sgd.key, 1),))
        assert [(t.optimizer, t.alpha0, t.beta, t.seed) for t in study.trials(found)] == [
            *(("sgd", 0.1, None, 5), ("sgd", 0.2, None, 5), ("sgd", 0.2, None, 0), ("sgd", 0.2, None, 1)),
            ("sgd-sgd", 0.3, 1e-3, 5),
        ]
        assert [(t.alpha0, t.seed) for t in study.reported(found)] == [(0.2, 0), (0.2, 1)]
        assert study.reported(SearchState((first,))) == sgd.trials(first, [5])
        assert len(study.placeholder_trials(found)) == 1 + 2
        assert len(study.planned_trials(found)) == len(study.planned_trials()) == 2 * (2 * 1 + 2)
        assert study.trials() == [], "nothing is known of a search that has not begun"
