"""Settings that replace those of a study, and studies written in Python: what they mean, what is refused."""

import numpy as np
import pytest

from study.config.loader import ConfigError, load_study, preset_names

FILE = """name: mine
workloads: [digits-logreg]
optimizers: [sgd, adam-adam]
alpha0: [0.01, 0.1]
beta: {adam: 1e-5}
epochs: 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("settings", "replaced"),
    [
        (["epochs=7"], ("epochs: 3", "epochs: 7")),
        (["alpha0=[1e-3, 1]"], ("[0.01, 0.1]", "[0.001, 1]")),
        (["beta.adam=1e-7"], ("1e-5", "1e-7")),
        (["beta.sgdn=1e-4"], ("{adam: 1e-5}", "{adam: 1e-5, sgdn: 1e-4}")),
        (["epochs=", "iterations=50"], ("epochs: 3", "iterations: 50")),
        (["resources.cpus=0.5"], ("epochs: 3", "epochs: 3\nresources: {cpus: 0.5}")),
        (["epochs=5", "epochs=7"], ("epochs: 3", "epochs: 7")),
        (["name=other"], ("name: mine", "name: other")),
    ],
)
def test_a_setting_means_what_it_means_in_the_file(file, tmp_path, settings, replaced):
    edited = tmp_path / "edited.yaml"
    edited.write_text(FILE.replace(*replaced))
    assert edited.read_text() != FILE
    assert load_study(file, settings) == load_study(edited)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["workloads=mnist-logreg"], {("mnist-logreg", "sgd"): 0.2}),
        (["workloads=[{use: digits-logreg}]"], {("digits-logreg", "sgd"): 0.1}),
        (["workloads=digits-mlp"], {("digits-mlp", "sgd"): None}),
        (["workloads=digits-mlp", "threshold.digits-mlp=0.3"], {("digits-mlp", "sgd"): 0.3}),
        (["workloads=digits-mlp", "threshold=0.4"], {("digits-mlp", "sgd"): 0.4}),
    ],
)
def test_thresholds_of_workloads_that_are_left_out_are_left_out(settings, expected):
    study = load_study("rivals", settings)
    assert {key: study.threshold_of(*key) for key in expected} == expected
    assert len(study.workloads) == 1


def test_thresholds_of_optimizers_that_are_left_out_are_left_out(file):
    optimizers = "optimizers: [sgd, adam-adam, torch.optim.NAdam]"
    threshold = "threshold: {sgd: 0.5, adam: 0.2, torch.optim.NAdam: 0.1}"
    file.write_text(FILE.replace("optimizers: [sgd, adam-adam]", f"{optimizers}\n{threshold}"))
    study = load_study(file, ["optimizers=[adam-adam]"])
    assert study.threshold_of("digits-logreg", "adam-adam") == 0.2
    # An op is no name of the study's: it stays.
    assert study.threshold_of("digits-logreg", "sgd") == 0.5


def test_a_threshold_that_is_set_for_a_workload_that_is_left_out_is_refused():
    with pytest.raises(ConfigError) as caught:
        load_study("rivals", ["workloads=digits-logreg", "threshold.mnist-logreg=0.3"])
    (line,) = caught.value.problems
    assert line.startswith("--set threshold.mnist-logreg=0.3: neither an optimizer nor a workload")


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_takes_settings(name):
    assert load_study(name, ["seeds=[7]"]).seeds == (7,)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("epochs=abc", "--set epochs=abc: 'abc' is not a whole number; write one such as 3"),
        ("epoch=3", "--set epoch=3: unknown key; did you mean epochs?"),
        ("epochs", "--set epochs: write KEY=VALUE, such as epochs=3"),
        ("=3", "--set =3: write KEY=VALUE, such as epochs=3"),
        ("name.x=1", "--set name.x=1: name is 'mine', not a mapping; set name as a whole"),
        ("name=", "--set name=: missing; write e.g. name: my-study"),
    ],
)
def test_a_wrong_setting_is_named(file, setting, line):
    with pytest.raises(ConfigError) as caught:
        load_study(file, [setting])
    assert caught.value.problems == [line]


def test_the_place_within_a_setting_is_named(file):
    with pytest.raises(ConfigError) as caught:
        load_study(file, ["optimizers=[sgd, {name: adamm}]"])
    (line,) = caught.value.problems
    assert line.startswith("--set optimizers=[sgd, {name: adamm}]: optimizers[1].name: 'adamm' is not")


def test_problems_of_file_and_setting_are_reported_together(file):
    file.write_text(FILE.replace("epochs: 3", "epochs: 3\nretries: -1"))
    with pytest.raises(ConfigError) as caught:
        load_study(file, ["batch_size=0"])
    assert [line.partition(": ")[0] for line in caught.value.problems] == [f"{file}:7", "--set batch_size=0"]


def test_settings_do_not_change_what_they_are_applied_to():
    content = {"name": "a", "workloads": "digits-logreg", "optimizers": "sgd", "alpha0": 0.1, "epochs": 1}
    content["resources"] = {"cpus": 1}
    assert load_study(content, ["resources.cpus=2"]).resources.cpus == 2
    assert content["resources"] == {"cpus": 1}


def test_a_mapping_with_numpy_and_tuples_is_the_file_with_the_same_values(file):
    content = {
        "name": "mine",
        "workloads": ("digits-logreg",),
        "optimizers": ["sgd", "adam-adam"],
        "alpha0": np.array([0.01, 0.1]),
        "beta": {"adam": np.float64(1e-5)},
        "epochs": np.int64(3),
    }
    assert load_study(content) == load_study(file)


def test_the_problems_of_a_mapping_have_their_keys():
    content = {"name": "a b", "workloads": [{"arg": 1}], "optimizers": ["sgd"], "alpha0": 0.1, "epochs": 1}
    with pytest.raises(ConfigError) as caught:
        load_study(content)
    assert [line.partition(": ")[0] for line in caught.value.problems] == ["name", "workloads[0].use"]
