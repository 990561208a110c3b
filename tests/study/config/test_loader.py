"""Study files: YAML as people write it, and what is refused where."""

import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from study.config.loader import ConfigError, load_study
from study.config.yaml_reader import dump, read


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
    def test_text_stays_text(self, load, good, value):
        study = load(dump({**yaml.safe_load(good), "workloads": [{"use": "a:b", "value": value}]}))
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

    def test_bom_and_windows_line_ends(self, tmp_path, good):
        path = tmp_path / "study.yaml"
        path.write_bytes(
            b"\xef\xbb\xbf" + yaml.safe_dump(yaml.safe_load(good)).replace("\n", "\r\n").encode()
        )
        assert load_study(path).name == "base"

    def test_aliases(self, load, good):
        text = good.replace("[0.01]", "&grid [0.1, 0.2]").replace("0.001", "*grid")
        assert len(load(text).trials()) == 4

    @given(st.data())
    def test_order_and_style_do_not_change_keys(self, tmp_path_factory, good, data):
        content = {
            **yaml.safe_load(good),
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
        | st.text("a1e-7.:#,[]{}'\"\n é", max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("ab1~", max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
@example({"": ":1"})  # which in braces ruamel.yaml writes and cannot read
def test_dump_and_read_are_inverse(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("yaml") / "value.yaml"
    path.write_text(dump({"value": value}), encoding="utf-8")
    document = read(path)
    assert document.value == {"value": value}
    assert not document.problems


WRITTEN_BEFORE = """\
name: 'no'
description: 'yes: 1e-7'
workloads:
- digits-logreg
- {use: 'a:b', path: '1e-7', n: 3, x: 1.0e-07, deep: true, day: '2019-01-01'}
optimizers:
- sgd
- name: sgdn
  schedule: {name: step, every: 5.0}
- name: adam-adam
  granularity: released
  args:
    lop_betas: [0.9, 1.0]
- name: torch.optim.AdamW
  label: A=1
  args: {eps: 1.0e-06, fused: false}
alpha0: [0.01]
beta:
  adam: [1.0e-07]
seeds: [3]
iterations: 10
batch_size: 128
weight_decay: 0.0001
granularity: group
threshold:
  digits-logreg: {adam: 0.3, default: 1.0}
  a:b: 2.0
resources: {cpus: 1.0, gpus: 0.5}
retries: 0
checkpoint_seconds: 30.0
"""


def test_a_file_that_an_earlier_version_wrote_has_the_same_trials(load):
    """Or a study could not be resumed. Written by the version with PyYAML; so are the keys."""
    study = load(WRITTEN_BEFORE)
    assert [trial.key for trial in study.trials()] == [
        *("1be444378f7b5339", "c0709b60d7b514cf", "97473dc2f72f1ba0", "476d125b1d1978a2"),
        *("437458acc1aa07a9", "c54949a3d29708d8", "42be2be44060b5dd", "e2480c48eb124fb5"),
    ]
    assert [study.threshold(trial) for trial in study.trials()] == [1.0, 1.0, 0.3, 1.0, *[2.0] * 4]
    assert load(study.to_yaml()) == study


class TestRefused:
    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ("alpha: 1", "alpha: unknown key; did you mean alpha0?"),
            ("lr: 1", "lr: unknown key; did you mean alpha0?"),
            ("name: ../x", "name: '../x' is not a name for a folder;"),
            ("name: a..b", "name: 'a..b' is not a name"),
            (f"name: {'a' * 101}", "name: 'aaaa"),
            ("name: ''", "name: '' is not a name"),
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
            ("optimizers: {name: sgd, args: {betas: 1}}", "optimizers.args.betas: sgd does not use it;"),
            (
                "optimizers: {name: sgd, args: {lr: 1}}",
                "optimizers.args.lr: not an option here; set it by alpha0",
            ),
            ("optimizers: torch.optim.", "optimizers: 'torch.optim.' is not an optimizer;"),
            ("optimizers: AdamW", "optimizers: 'AdamW' is not an optimizer; did you mean adamw? (any other"),
            ("optimizers: {name: a.B, beta: 1}", "optimizers.beta: a.B has none;"),
            ("optimizers: {name: a.B, granularity: group}", "optimizers.granularity: a.B has none;"),
            ("optimizers: {name: a.B, args: {lr: 1}}", "optimizers.args.lr: not an option here; set it by"),
            ("optimizers: {name: a.B, args: {x: {}}}", "optimizers.args.x: a mapping is not a number;"),
            ("optimizers: {name: adam, args: {eps: x}}", "optimizers.args.eps: 'x' is not a number;"),
            ("optimizers: {name: adam, label: A}", "optimizers.label: adam keeps its name,"),
            ('optimizers: {name: a.B, label: "a\\nb"}', "optimizers.label: 'a\\nb' is not a label;"),
            ("optimizers: {name: a.B, label: adam}", "optimizers: would be shown as adam, which is another"),
            ("optimizers: [a.B, c.B]", "optimizers[1]: would be shown as B, which is another"),
            ("optimizers: [a.B, a.B]", "optimizers[1]: repeats trials of optimizers[0];"),
            (
                "optimizers: {name: sgd, default_alpha0: 7}",
                "optimizers.default_alpha0: 7 is not tried; write one of",
            ),
            (
                "untuned: {optimizers: sgd-sgd, against: adam}",
                "untuned.against: no optimizer here is called adam; there are sgd-sgd",
            ),
            (
                "untuned: {optimizers: sgd-sgd, against: sgd-sgd, rivals: sgd-sgd}",
                "untuned.optimizers: sgd-sgd needs a default_alpha0 for this comparison; write one",
            ),
            (
                "untuned: {optimizers: sgd-sgd, against: sgd-sgd, within: 0.9}",
                "untuned.within: 0.9 is out of range;",
            ),
            ("optimizers: {name: sgd, schedule: cosin}", "optimizers.schedule: 'cosin' is not a schedule;"),
            (
                "optimizers: {name: sgd, schedule: {name: cosine, warmup: 2}}",
                "optimizers.schedule: warmup takes all 2 epochs of the budget;",
            ),
            (
                "optimizers: {name: sgd-sgd, schedule: {name: cosine, warmup: 1, hold: 1}}",
                "optimizers.schedule: warmup and hold take all 2 epochs of the budget;",
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
            ("resources: {gpus: 1.5}", "resources.gpus: 1.5 GPUs are not possible;"),
            ("resources: {cpus: 0}", "resources.gpus: a trial needs a CPU or a GPU;"),
            ("resources: 3", "resources: 3 is not a mapping;"),
            ("retries: -1", "retries: -1 is out of range;"),
        ],
    )
    def test_one_line_with_place_and_remedy(self, refused, good, line, problem):
        """One line of a good study is replaced, or one added."""
        lines = good.splitlines()
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

    def test_lines_below_the_top_level(self, refused, good):
        text = good.replace("[sgd-sgd]", "\n  - sgd-sgd\n  - name: adam\n    alpha0:\n    - 1\n    - x")
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


def test_the_examples_of_the_documentation_load(load):
    page = Path(__file__).parents[3] / "docs" / "optimizers.md"
    examples = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    assert [len({t.label for t in load(example).trials()}) for example in examples] == [6, 7]


def test_nothing_heavy_is_imported():
    heavy = "{'torch', 'ray', 'mlflow', 'numpy'}"
    code = f"import sys, study.config.loader, study.execution.planning; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
