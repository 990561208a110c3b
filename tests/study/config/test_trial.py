"""A trial: its key, its settings, its names, and what it refuses."""

import hashlib
import json
import pickle
import subprocess
import sys

import pytest

import hypergrad
from study.config.loader import LOPS, OPS, OPTIMIZERS, Trial


def trial(**changes) -> Trial:
    settings = {"workload": "w:f", "optimizer": "adam-adam", "alpha0": 0.001, "beta": 1e-7, "seed": 0}
    return Trial(**{**settings, "epochs": 20, **changes})


class TestTrial:
    def test_optimizers_are_ops_alone_and_with_every_lop(self):
        assert OPS == ("sgd", "sgdn", "adam", "adamw", "muon")
        assert LOPS == ("sgd", "sgdn", "adam", "adagrad", "lion")
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
            ({"optimizer": "adamax"}, "optimizer must be one of"),
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
