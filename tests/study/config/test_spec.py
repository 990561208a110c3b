"""The study file's meaning: trials, their keys, and what is refused where."""

import hashlib
import json
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import hypergrad
from study.config.loader import LOPS, OPS, OPTIMIZERS, ConfigError, Study, Trial, load_study
from study.config.yaml_reader import dump, read

GOOD = """\
name: base
workloads: [digits-logreg]
optimizers: [sgd-sgd]
alpha0: [0.01]
beta: 0.001
epochs: 2
"""
BASE = yaml.safe_load(GOOD)


@pytest.fixture
def load(tmp_path):
    """Loads a study from text, or from the base with other keys; None leaves a key out."""

    def load(text: str | None = None, **changes) -> Study:
        if text is None:
            content = {k: v for k, v in {**BASE, **changes}.items() if v is not None}
            text = yaml.safe_dump(content, sort_keys=False)
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return load_study(path)

    return load


@pytest.fixture
def refused(load, tmp_path):
    """The problems of a study, without the file's name."""

    def refused(text: str | None = None, **changes) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, **changes)
        assert str(caught.value) == "\n".join(caught.value.problems)
        return [p.removeprefix(f"{tmp_path / 'study.yaml'}:") for p in caught.value.problems]

    return refused


def trial(**changes) -> Trial:
    settings = {"workload": "w:f", "optimizer": "adam-adam", "alpha0": 0.001, "beta": 1e-7, "seed": 0}
    return Trial(**{**settings, "epochs": 20, **changes})


class TestTrial:
    def test_optimizers_are_ops_alone_and_with_every_lop(self):
        assert OPS == ("sgd", "sgdn", "adam")
        assert (*OPS, "adagrad", "lion") == LOPS
        assert OPTIMIZERS == hypergrad.NAMES

    def test_key_is_the_digest_of_canonical_json(self):
        text = (
            '[1,{"alpha0":0.001,"batch_size":128,"beta":1e-07,"epochs":20,"granularity":"group",'
            '"iterations":null,"optimizer":"adam-adam","optimizer_args":{},"seed":0,'
            '"weight_decay":0.0001,"workload":"w:f","workload_args":{}}]'
        )
        assert trial().key == hashlib.sha256(text.encode()).hexdigest()[:16]

    def test_key_never_changes(self):
        """A changed key orphans every stored run: raise KEY_VERSION only on purpose."""
        assert trial().key == "b3d7f0b02896dc29"

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"optimizer": "sgdn", "beta": None}, "fefda57749603435"),
            (
                {"optimizer": "adam-sgd", "granularity": "released", "optimizer_args": {"eps": 1e-6}},
                "325395933199e70e",
            ),
            ({"optimizer": "sgdn", "schedule": "cosine"}, "2372e01280d91eb6"),
            ({"optimizer": "torch.optim.AdamW"}, "bfaf3d9116fcbe9f"),
            ({"optimizer": "a.B", "optimizer_args": {"n": 2, "x": 0.5, "mode": "fast"}}, "58a473d2bc4a1e80"),
        ],
    )
    def test_no_kind_of_trial_changes_its_key(self, changes, key):
        """The first two are from before there were schedules and other optimizers."""
        assert trial(**changes).key == key

    def test_key_is_the_same_in_another_process(self):
        code = (
            "from study.config.loader import Trial; print(Trial('w:f', 'adam-adam', 0.001, 1e-7, 0, 20).key)"
        )
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert out.stdout.strip() == trial().key

    @pytest.mark.parametrize(
        "change",
        [
            *({"alpha0": 0.0011}, {"beta": 2e-7}, {"seed": 1}, {"epochs": 21}, {"workload": "w:g"}),
            *({"epochs": None, "iterations": 20}, {"batch_size": 64}, {"weight_decay": 0.0}),
            *({"granularity": "released"}, {"workload_args": {"a": 1}}, {"optimizer": "adam-sgd"}),
            *({"optimizer_args": {"lop_eps": 1e-7}}, {"optimizer": "torch.optim.AdamW"}),
        ],
    )
    def test_every_setting_changes_the_key(self, change):
        assert trial(**change).key != trial().key
        assert trial(**change) != trial()

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"alpha0": 1}, {"alpha0": 1.0}),
            ({"weight_decay": 0}, {"weight_decay": -0.0}),
            ({"optimizer_args": {"lop_betas": [0, 1]}}, {"optimizer_args": {"lop_betas": (0.0, 1.0)}}),
            ({"optimizer": "adam"}, {"optimizer": "adam", "beta": None, "granularity": "tensor"}),
            ({"optimizer": "a.B"}, {"optimizer": "a.B", "beta": None, "granularity": "tensor"}),
            (
                {"optimizer": "a.B", "optimizer_args": {"n": 2, "m": [1.0]}},
                {"optimizer": "a.B", "optimizer_args": {"n": 2.0, "m": (1,)}},
            ),
            (
                {"optimizer": "sgd", "schedule": "cosine"},
                {"optimizer": "sgd", "schedule": {"name": "cosine", "warmup": 0}, "label": "annealed"},
            ),
        ],
    )
    def test_equal_settings_have_equal_keys(self, one, other):
        assert trial(**one).key == trial(**other).key
        assert trial(**one) == trial(**other)
        assert len({trial(**one), trial(**other)}) == 1

    def test_settings_and_pickle_restore_the_trial(self):
        original = trial(workload_args={"width": 3}, optimizer_args={"lop_betas": [0.9, 0.99]})
        assert original.settings()["optimizer_args"] == {"lop_betas": [0.9, 0.99]}
        for copy in (Trial.from_settings(original.settings()), pickle.loads(pickle.dumps(original))):
            assert copy == original
            assert copy.key == original.key

    @pytest.mark.parametrize("optimizer", ["sgd", "torch.optim.SGD"])
    def test_settings_restore_a_schedule(self, optimizer):
        original = trial(
            optimizer=optimizer, schedule={"name": "step", "every": 3}, optimizer_args={"momentum": 1}
        )
        again = Trial.from_settings(json.loads(json.dumps(original.settings())))
        assert again == original
        assert again.key == original.key
        assert original.settings()["schedule"] == {"name": "step", "every": 3.0}
        assert "schedule" not in trial().settings()
        assert original.key != trial(optimizer=optimizer, optimizer_args={"momentum": 1}).key

    def test_whole_numbers_that_a_class_may_count_with_stay_whole(self):
        """``slice_p: 11`` of Prodigy steps through an array."""
        args = trial(optimizer="a.B", optimizer_args={"n": 11.0, "betas": [0.9, 1.0]}).optimizer_args
        assert (args, type(args["n"])) == ({"n": 11, "betas": (0.9, 1)}, int)

    def test_labels(self):
        assert trial(optimizer="torch.optim.AdamW").label == "AdamW"
        assert trial(optimizer="sgdn", schedule={"name": "step", "every": 3}).label == "sgdn step every=3"
        assert trial(optimizer="a.B", label="mine", seed=2).name == "mine α₀=0.001 seed=2"
        by_path = trial(optimizer="torch.optim.AdamW")
        assert (by_path.op, by_path.lop, by_path.beta) == ("torch.optim.AdamW", None, None)

    def test_names(self):
        assert trial().name == "adam-adam α₀=0.001 β=1e-07 seed=0"
        assert trial(optimizer="sgdn", alpha0=1, seed=7).name == "sgdn α₀=1 seed=7"
        assert (trial().op, trial().lop) == ("adam", "adam")
        assert (trial(optimizer="sgdn").op, trial(optimizer="sgdn").lop) == ("sgdn", None)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"optimizer": "adamw"}, "optimizer must be one of"),
            ({"beta": None}, "needs a beta"),
            ({"iterations": 3}, "exactly one of epochs and iterations"),
            ({"epochs": None}, "exactly one of epochs and iterations"),
            ({"alpha0": float("nan")}, "alpha0 must be a finite number"),
            ({"beta": -1.0}, "beta must be a finite number, 0 or more"),
            ({"granularity": "row"}, "granularity must be one of"),
            ({"optimizer": "torch.optim."}, "optimizer must be one of"),
            ({"optimizer": "a..B"}, "or a dotted path"),
            ({"optimizer": f"a.{'b' * 200}"}, "or a dotted path"),
            ({"schedule": "cosine"}, "adam-adam learns its learning rate and takes no schedule"),
            ({"optimizer": "sgd", "schedule": "linear"}, "'linear' is not a schedule; write cosine or step"),
        ],
    )
    def test_refuses(self, change, words):
        with pytest.raises(ValueError, match=words):
            trial(**change)


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

    def test_a_label_is_not_in_the_key(self, load):
        plain, labelled = (
            load(optimizers={"name": "torch.optim.AdamW", "label": label}) for label in (None, "mine")
        )
        assert [t.key for t in plain.trials()] == [t.key for t in labelled.trials()]
        assert plain.trials() == labelled.trials()

    def test_what_is_not_computed_is_not_in_the_key(self, load):
        others = {"threshold": 1.0, "retries": 3, "resources": {"gpus": 0.5}, "name": "x", "description": "y"}
        assert [t.key for t in load(**others).trials()] == [t.key for t in load().trials()]

    def test_options_are_those_of_the_optimizers(self):
        import inspect

        from study.config.sections import OPTIONS

        for option, (part, names) in OPTIONS.items():
            takes = [hypergrad.SGD] if part == "lop" or "sgdn" in names else []
            takes += [hypergrad.Adam] if part == "lop" or "adam" in names else []
            if option != "eps":
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


class TestYaml:
    def test_numbers_and_text_as_people_write_them(self, load):
        study = load(
            "name: no\nworkloads: digits-mlp\noptimizers: sgd-sgd\nalpha0: 1e-2\nbeta: 1E-7\nepochs: 3"
        )
        assert study.name == "no"
        assert (study.alpha0, study.beta) == ((0.01,), {"default": (1e-7,)})

    @pytest.mark.parametrize(
        "value", ["1e-7", "no", "~", "0.5", "true", "1_0", "a: b", "é\n\tx", "", " x ", "2019-01-01"]
    )
    def test_text_stays_text(self, load, value):
        study = load(dump({**BASE, "workloads": [{"use": "a:b", "value": value}]}))
        assert study.workloads[0].args == {"value": value}
        assert load(study.to_yaml()) == study

    def test_everything_survives_to_yaml(self, load):
        study = load(
            description="one: line",
            workloads=["digits-mlp", {"use": "a:b", "path": "1e-7", "n": 3, "x": 1e-7, "on": True}],
            optimizers=[
                "sgd",
                {"name": "adam-adam", "alpha0": 1, "beta": 2, "args": {"lop_betas": [0.9, 1]}},
            ],
            granularity={"adam": "released"},
            epochs=None,
            iterations=10,
            resources={"gpus": 0.25},
            seeds=[3, 1],
            retries=2,
        )
        again = load(study.to_yaml())
        assert again == study
        assert [t.key for t in again.trials()] == [t.key for t in study.trials()]
        assert again.to_yaml() == study.to_yaml()

    def test_bom_and_windows_line_ends(self, tmp_path):
        path = tmp_path / "study.yaml"
        path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(BASE).replace("\n", "\r\n").encode())
        assert load_study(path).name == "base"

    def test_aliases(self, load):
        text = GOOD.replace("[0.01]", "&grid [0.1, 0.2]").replace("0.001", "*grid")
        assert len(load(text).trials()) == 4

    @given(st.data())
    def test_order_and_style_do_not_change_keys(self, tmp_path_factory, data):
        content = {
            **BASE,
            "workloads": [{"use": "a:b", "x": 1, "y": 2, "z": 3}],
            "optimizers": [
                "adam-adam",
                {"name": "adam-sgd", "beta": 1e-7, "args": {"eps": 1e-7, "betas": [0.9, 0.99]}},
            ],
            "beta": {"adam": 1e-3, "sgd": 1e-4, "adam-adam": [1e-7, 1e-6]},
        }
        seed, flow = data.draw(st.integers()), data.draw(st.sampled_from([True, False, None]))
        path = tmp_path_factory.mktemp("order") / "study.yaml"
        path.write_text(dump(content))
        keys = [t.key for t in load_study(path).trials()]
        shuffled = _shuffled(content, random.Random(seed))
        path.write_text(yaml.safe_dump(shuffled, sort_keys=False, default_flow_style=flow))
        assert [t.key for t in load_study(path).trials()] == keys


def _shuffled(value, rng):
    if isinstance(value, list):
        return [_shuffled(v, rng) for v in value]
    if isinstance(value, dict):
        return {k: _shuffled(value[k], rng) for k in rng.sample(list(value), len(value))}
    return value


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**15), 10**15)
        | st.floats(allow_nan=False)
        | st.text("a1e-7.:#\n é", max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1~", max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_dump_and_read_are_inverse(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "value.yaml"
    path.write_text(dump({"value": value}), encoding="utf-8")
    document = read(path)
    assert document.value == {"value": value}
    assert not document.problems


class TestRefused:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("alpha: 1", "alpha: unknown key; did you mean alpha0?"),
            ("lr: 1", "lr: unknown key; did you mean alpha0?"),
            ("name: ../x", "name: '../x' is no name for a folder;"),
            ("name: a..b", "name: 'a..b' is no name"),
            (f"name: {'a' * 101}", "name: 'aaaa"),
            ("name: ''", "name: '' is no name"),
            ("name: 5", "name: 5 is not text;"),
            ("name:", "name: nothing is not text;"),
            (r'description: "a\nb"', "description: longer than one line;"),
            (
                "workloads: digits-logrge",
                "workloads: 'digits-logrge' is not a workload; did you mean digits-logreg?",
            ),
            ("workloads: 'a.b:'", "workloads: 'a.b:' is not of the form module:function;"),
            ("workloads: [{use: 'a:b', x: [1]}]", "workloads[0].x: a list cannot be an argument;"),
            ("workloads: {path: x}", "workloads.use: missing; write e.g. use: digits-logreg"),
            ("workloads: ['a:b', 'a:b']", "workloads[1]: the same as workloads[0];"),
            ("workloads: []", "workloads: an empty list"),
            ("optimizers: sgd-sdg", "optimizers: 'sgd-sdg' is not an optimizer; did you mean sgd-sgd?"),
            ("optimizers: [adam, adam]", "optimizers[1]: repeats trials of optimizers[0];"),
            ("optimizers: [sgd-sgd, {name: sgd-sgd, beta: 0.001}]", "optimizers[1]: repeats trials"),
            ("optimizers: [{name: sgd, bta: 1}]", "optimizers[0].bta: unknown key; did you mean beta?"),
            ("optimizers: [{beta: 1}]", "optimizers[0].name: missing; write e.g. name: adam-adam"),
            (
                "optimizers: {name: sgd, args: {lop_bets: 1}}",
                "optimizers.args.lop_bets: unknown option; did you mean lop_betas?",
            ),
            ("optimizers: {name: sgd, args: {betas: 1}}", "optimizers.args.betas: sgd has no use for it;"),
            (
                "optimizers: {name: sgd, args: {lr: 1}}",
                "optimizers.args.lr: not an option here; set it by alpha0",
            ),
            ("optimizers: torch.optim.", "optimizers: 'torch.optim.' is not an optimizer;"),
            ("optimizers: AdamW", "optimizers: 'AdamW' is not an optimizer; did you mean adam? (any other"),
            ("optimizers: {name: a.B, beta: 1}", "optimizers.beta: a.B has none;"),
            ("optimizers: {name: a.B, granularity: group}", "optimizers.granularity: a.B has none;"),
            ("optimizers: {name: a.B, args: {lr: 1}}", "optimizers.args.lr: not an option here; set it by"),
            ("optimizers: {name: a.B, args: {x: {}}}", "optimizers.args.x: a mapping is not a number;"),
            ("optimizers: {name: adam, args: {eps: x}}", "optimizers.args.eps: 'x' is not a number;"),
            ("optimizers: {name: adam, label: A}", "optimizers.label: adam keeps its name,"),
            ('optimizers: {name: a.B, label: "a\\nb"}', "optimizers.label: 'a\\nb' is no label;"),
            ("optimizers: {name: a.B, label: adam}", "optimizers: would be shown as adam, which is another"),
            ("optimizers: [a.B, c.B]", "optimizers[1]: would be shown as B, which is another"),
            ("optimizers: [a.B, a.B]", "optimizers[1]: repeats trials of optimizers[0];"),
            ("optimizers: {name: sgd-sgd, schedule: cosine}", "optimizers.schedule: sgd-sgd learns its"),
            ("optimizers: {name: sgd, schedule: cosin}", "optimizers.schedule: 'cosin' is not a schedule;"),
            (
                "optimizers: {name: sgd, schedule: {name: cosine, warmup: 2}}",
                "optimizers.schedule: warmup takes all 2 epochs of the budget;",
            ),
            ("threshold: {a.B: 1}", "threshold.a.B: neither an optimizer nor a workload of this study;"),
            ("alpha0: [0.1, -1]", "alpha0[1]: -1 is negative;"),
            ("alpha0: true", "alpha0: true is not a number;"),
            ("alpha0: .nan", "alpha0: nan is not finite;"),
            ("alpha0: 1e400", "alpha0: inf is not finite;"),
            ("alpha0: '0.1'", "alpha0: '0.1' is not a number;"),
            ("alpha0: [0.1, 1e-1]", "alpha0: 0.1 is listed twice;"),
            ("alpha0: []", "alpha0: an empty list"),
            ("beta: {adam: 1}", "beta: missing for sgd-sgd,"),
            ("beta: {sdg: 1, sgd: 1}", "beta.sdg: not an op or a learned optimizer; did you mean sgd?"),
            ("beta: {sgd: [1, -1]}", "beta.sgd[1]: -1 is negative;"),
            ("seeds: 1.0", "seeds: 1.0 is not a count of seeds;"),
            ("seeds: true", "seeds: true is not a count"),
            ("seeds: 0", "seeds: 0 is out of range;"),
            ("seeds: [1, 1]", "seeds: 1 is listed twice;"),
            ("seeds: [-1]", "seeds[0]: -1 is out of range;"),
            ("iterations: 3", "iterations: both epochs and iterations are given;"),
            ("epochs: 0", "epochs: 0 is out of range;"),
            ("epochs: 1_000_000_000", "epochs: 1000000000 is out of range;"),
            ("batch_size: 0.5", "batch_size: 0.5 is not a whole number;"),
            (f"batch_size: {'9' * 5000}", "batch_size: inf is not a whole number;"),
            ("weight_decay: -1", "weight_decay: -1 is negative;"),
            ("granularity: relased", "granularity: 'relased' is not a granularity; did you mean released?"),
            (
                "threshold: {digits-mlp: 1}",
                "threshold.digits-mlp: neither an optimizer nor a workload of this study;",
            ),
            ("threshold: {digits-logreg: {sgd: x}}", "threshold.digits-logreg.sgd: 'x' is not a number;"),
            ("threshold: {adam: }", "threshold.adam: nothing is not a number;"),
            ("resources: {cpu: 1}", "resources.cpu: unknown key; did you mean cpus?"),
            ("resources: {gpus: 1.5}", "resources.gpus: 1.5 GPUs cannot be had;"),
            ("resources: {cpus: 0}", "resources.gpus: a trial without CPU or GPU;"),
            ("resources: 3", "resources: 3 is not a mapping;"),
            ("retries: -1", "retries: -1 is out of range;"),
        ],
    )
    def test_one_line_with_place_and_remedy(self, refused, line, problem):
        """One line of a good study is replaced, or one added."""
        lines = GOOD.splitlines()
        key = line.partition(":")[0]
        at = next((i for i, other in enumerate(lines) if other.startswith(f"{key}:")), len(lines))
        lines[at : at + 1] = [line]
        (found,) = refused("\n".join(lines))
        assert found.startswith(f"{at + 1}: {problem}")
        assert ";" in found

    @pytest.mark.parametrize(
        ("key", "problem"),
        [
            ("name", "name: missing; write e.g. name: my-study"),
            ("workloads", "workloads: missing; write e.g. workloads: [digits-logreg]"),
            ("alpha0", "alpha0: missing; write e.g. alpha0: [0.01, 0.001]"),
            ("beta", "beta: missing for sgd-sgd,"),
            ("epochs", "iterations: neither epochs nor iterations is given;"),
        ],
    )
    def test_missing(self, refused, key, problem):
        (found,) = refused(**{key: None})
        assert found.startswith(f"1: {problem}")

    def test_lines_below_the_top_level(self, refused):
        text = GOOD.replace("[sgd-sgd]", "\n  - sgd-sgd\n  - name: adam\n    alpha0:\n    - 1\n    - x")
        assert [p.split(": ")[:2] for p in refused(text)] == [["8", "optimizers[1].alpha0[1]"]]

    def test_too_large_a_grid(self, refused):
        (found,) = refused(seeds=10_000, alpha0=list(range(11)))
        assert found.startswith("1: the grid has 110,000 trials; at most 100,000")

    def test_all_problems_at_once_in_the_order_of_the_file(self, refused):
        problems = refused(
            "name: a b\nworkloads: [x, digits-mlp]\nalpha0: -1\noptimizers: sgd-sgd\nseeds: x\nname: c"
        )
        assert [p.split(": ")[:2] for p in problems] == [
            *(["1", "beta"], ["1", "iterations"], ["2", "workloads[0]"]),
            *(["3", "alpha0"], ["5", "seeds"], ["6", "name"]),
        ]

    def test_sources(self, tmp_path):
        for source, words in [
            ("quickstrat", "did you mean quickstart?"),
            (tmp_path / "none.yaml", "presets are alpha0-logreg,"),
            (tmp_path, "is a folder"),
            ("", "'': no such file or preset"),
            ("a\0b\n", "a\\x00b\\n: no such file or preset"),
            ("x" * 5000, "no such file or preset"),
            ("/dev/null", "not a regular file"),
        ]:
            with pytest.raises(ConfigError, match=r"\A[^\n]+\Z") as caught:
                load_study(source)
            assert words in str(caught.value)

    def test_error_survives_pickling(self):
        error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
        assert (error.problems, str(error)) == (["a", "b"], "a\nb")


def test_the_example_of_the_documentation_loads(load):
    page = Path(__file__).parents[3] / "docs" / "optimizers.md"
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert len({t.label for t in load(example).trials()}) == 7


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'ray', 'mlflow', 'numpy'}"
    code = f"import sys, study.config.loader, study.execution.planning; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
