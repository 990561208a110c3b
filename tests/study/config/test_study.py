"""The trials and thresholds that a study file comes to."""

import pytest

import hypergrad


class TestTrials:
    def test_order_is_that_of_the_file(self, load):
        study = load(
            workloads=["digits-mlp", "digits-logreg"],
            optimizers=["sgd-sgd", "adam"],
            alpha0=[0.1, 0.01],
            beta=[1e-3, 1e-4],
            seeds=[7, 0],
        )
        points = [(t.workload, t.optimizer, t.alpha0, t.beta, t.seed) for t in study.trials()]
        assert points[:5] == [
            ("digits-mlp", "sgd-sgd", 0.1, 1e-3, 7),
            ("digits-mlp", "sgd-sgd", 0.1, 1e-3, 0),
            ("digits-mlp", "sgd-sgd", 0.1, 1e-4, 7),
            ("digits-mlp", "sgd-sgd", 0.1, 1e-4, 0),
            ("digits-mlp", "sgd-sgd", 0.01, 1e-3, 7),
        ]
        assert points[8] == ("digits-mlp", "adam", 0.1, None, 7), "a plain optimizer has no β to vary"
        assert points[12][0] == "digits-logreg"
        assert len(points) == 2 * (2 * 2 + 2) * 2

    def test_the_more_specific_beta_wins(self, load):
        study = load(
            optimizers=["adam-sgd", "adam-adam", "sgd-sgd", {"name": "sgdn-sgd", "beta": 5}],
            beta={"default": 1, "adam": 2, "adam-adam": [3, 4]},
        )
        betas = [(t.optimizer, t.beta) for t in study.trials()]
        assert betas == [
            *(("adam-sgd", 2.0), ("adam-adam", 3.0), ("adam-adam", 4.0), ("sgd-sgd", 1.0), ("sgdn-sgd", 5.0))
        ]

    def test_granularity(self, load):
        optimizers = ["adam", "adam-sgd", "sgd-sgd", {"name": "adam-adam", "granularity": "tensor"}]
        study = load(optimizers=optimizers, granularity={"adam": "released"})
        assert [t.granularity for t in study.trials()] == ["group", "released", "group", "tensor"]

    def test_one_value_for_all_and_counts(self, load):
        study = load(optimizers="adam-adam", workloads="digits-mlp", alpha0=1, granularity="tensor", seeds=3)
        assert [(t.seed, t.alpha0, t.granularity) for t in study.trials()] == [
            (seed, 1.0, "tensor") for seed in (0, 1, 2)
        ]

    def test_arguments_reach_the_trial(self, load):
        study = load(
            workloads=[{"use": "mypkg.tasks:task", "width": 3, "path": "a b", "deep": True}],
            optimizers=[{"name": "adam-adam", "alpha0": [0.5], "args": {"lop_betas": [0.9, 0.99]}}],
        )
        (point,) = study.trials()
        assert point.workload_args == {"width": 3, "path": "a b", "deep": True}
        assert type(point.workload_args["width"]) is int
        assert point.optimizer_args == {"lop_betas": (0.9, 0.99)}
        assert point.alpha0 == 0.5

    def test_optimizers_by_path_and_schedules(self, load):
        study = load(
            optimizers=[
                "adam",
                {"name": "adam", "schedule": "cosine"},
                "torch.optim.AdamW",
                {
                    "name": "prodigyopt.Prodigy",
                    "alpha0": 1,
                    "args": {"d0": 1e-5, "mode": "x"},
                    "label": "Pro",
                },
            ]
        )
        points = study.trials()
        assert [(t.optimizer, t.label, t.alpha0, t.beta, t.schedule) for t in points] == [
            ("adam", "adam", 0.01, None, None),
            ("adam", "adam cosine", 0.01, None, {"name": "cosine"}),
            ("torch.optim.AdamW", "AdamW", 0.01, None, None),
            ("prodigyopt.Prodigy", "Pro", 1.0, None, None),
        ]
        assert points[3].optimizer_args == {"d0": 1e-5, "mode": "x"}
        assert len({t.key for t in points}) == 4
        assert load(study.to_yaml()) == study
        assert [t.label for t in load(study.to_yaml()).trials()] == [t.label for t in points]

    def test_a_learned_optimizer_may_follow_a_schedule(self, load):
        entries = ["sgd-sgd", {"name": "sgd-sgd", "schedule": "cosine"}]
        entries.append({"name": "adamw-sgdn", "rule": "cosine", "schedule": {"name": "cosine", "hold": 1}})
        plain, along, learned = load(optimizers=entries).trials()
        assert along.label == "sgd-sgd along cosine"
        assert learned.label == "adamw-sgdn cosine along cosine hold=1"
        assert along.schedule == {"name": "cosine"}
        assert plain.key != along.key
        assert along.lop == learned.lop.removesuffix("n") == "sgd"

    def test_a_label_is_not_in_the_key(self, load):
        plain, labelled = (
            load(optimizers={"name": "torch.optim.AdamW", "label": label}) for label in (None, "mine")
        )
        assert [t.key for t in plain.trials()] == [t.key for t in labelled.trials()]
        assert plain.trials() == labelled.trials()

    def test_claims_and_defaults_are_not_in_the_key(self, load):
        entries = {"name": "torch.optim.AdamW", "alpha0": [0.1, 0.01]}, {"name": "sgd", "alpha0": [0.1, 1]}
        plain = load(optimizers=list(entries))
        claims = {"optimizers": "AdamW", "against": "sgd", "rivals": "sgd"}
        study = load(optimizers=[entry | {"default_alpha0": 0.1} for entry in entries], untuned=claims)
        assert [t.key for t in study.trials()] == [t.key for t in plain.trials()]
        assert {study.default_alpha0(t) for t in study.trials()} == {0.1}
        assert {plain.default_alpha0(t) for t in plain.trials()} == {None}
        assert load(study.to_yaml()) == study
        assert study.untuned.alpha0.low == 1e-6

    def test_what_is_not_computed_is_not_in_the_key(self, load):
        others = {"threshold": 1.0, "retries": 3, "resources": {"gpus": 0.5}, "name": "x", "description": "y"}
        assert [t.key for t in load(**others).trials()] == [t.key for t in load().trials()]

    def test_options_are_those_of_the_optimizers(self):
        import inspect

        from study.config.optimizer_options import OPTIONS

        for option, (part, names) in OPTIONS.items():
            takes = [hypergrad.SGD] if part == "lop" or "sgdn" in names else []
            takes += [hypergrad.Adam] if part == "lop" or "adam" in names else []
            if option not in ("eps", "multiplicative", "normalize"):  # the last two are of version 0.1
                assert all(option in inspect.signature(optimizer).parameters for optimizer in takes)


class TestThreshold:
    POINTS = tuple((w, o) for w in ("digits-logreg", "digits-mlp") for o in ("sgd", "sgd-sgdn", "adam-adam"))

    def test_of_an_optimizer_by_its_path(self, load):
        study = load(
            workloads=["digits-logreg", "digits-mlp"],
            optimizers=["adam", "a.B", "c.D"],
            threshold={"a.B": 0.5, "adam": 0.2, "digits-mlp": {"c.D": 0.3}},
        )
        thresholds = [study.threshold(t) for t in study.trials()]
        assert thresholds == [0.2, 0.5, None, 0.2, 0.5, 0.3]
        assert load(study.to_yaml()) == study

    @pytest.mark.parametrize(
        ("threshold", "expected"),
        [
            (None, [None] * 6),
            (0.3, [0.3] * 6),
            ({"sgd": 0.75, "adam": 0.2}, [0.75, 0.75, 0.2] * 2),
            ({"sgd": 0.75, "sgd-sgdn": 0.5}, [0.75, 0.5, None] * 2),
            ({"digits-mlp": 0.3}, [None] * 3 + [0.3] * 3),
            ({"digits-logreg": 0.3, "digits-mlp": {"sgd": 0.5, "adam": 0.2}}, [0.3] * 3 + [0.5, 0.5, 0.2]),
            ({"digits-mlp": {"sgd": 0.5}, "default": 0.9}, [0.9] * 3 + [0.5, 0.5, 0.9]),
            ({"digits-mlp": {"sgd": 0.5}, "default": {"adam": 0.9}}, [None, None, 0.9, 0.5, 0.5, 0.9]),
        ],
    )
    def test_most_specific(self, load, threshold, expected):
        study = load(
            workloads=["digits-logreg", "digits-mlp"],
            optimizers=["sgd", "sgd-sgdn", "adam-adam"],
            threshold=threshold,
        )
        assert [(t.workload, t.optimizer) for t in study.trials()] == list(self.POINTS)
        assert [study.threshold(t) for t in study.trials()] == expected
        assert load(study.to_yaml()) == study
