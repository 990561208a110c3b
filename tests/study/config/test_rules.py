"""The key ``rule`` of a study's optimizers: β, labels, trial keys, and what is refused."""

from __future__ import annotations

import pytest

import hypergrad
from study.config.optimizer_name import LOPS, OPS, RULES, OptimizerName
from study.config.trial import Trial


@pytest.mark.parametrize("rule", RULES[1:])
@pytest.mark.parametrize("op", OPS)
def test_the_default_beta_is_that_of_hypergrad(op, rule):
    for lop in LOPS:
        try:
            expected = hypergrad.default_hypergrad_lr(rule, op, lop)
        except ValueError:
            expected = None
        assert OptimizerName(op, lop, rule).default_beta == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("adam-sgdn", ("adam", "sgdn", "additive", "")),
        ("adam-sgdn cosine", ("adam", "sgdn", "cosine", "")),
        ("sgd-adam additive-cosine", ("sgd", "adam", "additive-cosine", "")),
        ("adam-sgdn cosine slow start", ("adam", "sgdn", "cosine", "slow start")),
        ("adam-sgdn slow", ("adam", "sgdn", "additive", "slow")),
        ("adam cosine", ("adam cosine", None, "additive", "")),  # a schedule
        ("AdamW cosine", ("AdamW cosine", None, "additive", "")),
    ],
)
def test_a_label_is_split_into_its_parts(text, parts):
    name = OptimizerName.parse(text)
    assert (name.op, name.lop, name.rule, name.variant) == parts
    assert str(name) == text


def test_a_rule_is_part_of_a_trial_and_of_its_label(load):
    study = load(
        optimizers=[
            "adam-sgdn",
            {"name": "adam-sgdn", "rule": "cosine", "beta": [0.01, 0.03]},
            {"name": "adam-sgdn", "rule": "cosine", "args": {"lop_momentum": 0.5}, "label": "gentle"},
            {"name": "sgd-sgdn", "rule": "cosine"},
        ]
    )
    assert [(t.label, t.rule, t.beta) for t in study.trials()] == [
        ("adam-sgdn", "additive", 0.001),
        ("adam-sgdn cosine", "cosine", 0.01),
        ("adam-sgdn cosine", "cosine", 0.03),
        ("gentle", "cosine", 0.02),
        ("sgd-sgdn cosine", "cosine", 0.02),
    ]
    assert len({t.key for t in study.trials()}) == 5
    assert study.trials()[2].name == "adam-sgdn cosine α₀=0.01 β=0.03 seed=0"
    assert load(study.to_yaml()) == study
    for trial in study.trials():
        assert Trial.from_settings(trial.settings()) == trial
        assert ("rule" in trial.settings()) == (trial.rule != "additive")


def test_additive_is_what_a_trial_without_rule_is(load):
    plain, named = load(), load(optimizers=[{"name": "sgd-sgd", "rule": "additive"}])
    assert [t.key for t in plain.trials()] == [t.key for t in named.trials()]
    assert [t.label for t in named.trials()] == ["sgd-sgd"]


def test_trials_with_the_options_of_version_0_1_keep_their_keys(load):
    """The keys are those that version 0.1 gave."""
    trials = [
        Trial(
            "w:f", "adam-sgdn", 1e-3, 0.03, 0, 20, optimizer_args={"multiplicative": True, "normalize": True}
        ),
        Trial("w:f", "sgd-sgd", 1e-3, 0.03, 0, 20, optimizer_args={"multiplicative": True}),
    ]
    assert [trial.key for trial in trials] == ["1bc08cc5007f5d8c", "2e5d6d9f38f15112"]
    (trial,) = load(optimizers=[{"name": "sgd-sgd", "args": {"multiplicative": True}}]).trials()
    assert (trial.rule, trial.label, trial.beta) == ("additive", "sgd-sgd", 0.001)


def test_a_plain_optimizer_has_no_rule():
    assert Trial("w:f", "sgd", 0.1, None, 0, 1, rule="cosine") == Trial("w:f", "sgd", 0.1, None, 0, 1)


def test_the_studys_beta_is_for_the_additive_rule(load):
    optimizers = ["adam-sgd", {"name": "adam-sgd", "rule": "cosine"}]
    study = load(optimizers=optimizers, beta={"adam": 1e-7})
    assert [t.beta for t in study.trials()] == [1e-7, 0.2]
    assert [t.beta for t in load(optimizers=optimizers[1:], beta=None).trials()] == [0.2]


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        ([{"name": "adam-sgd", "rule": "cosin"}], "'cosin' is not a rule; did you mean cosine?"),
        ([{"name": "adam", "rule": "cosine"}], "adam does not learn its learning rate; leave it out"),
        ([{"name": "torch.optim.Adam", "rule": "cosine"}], "torch.optim.Adam has none; leave it out"),
        (
            [{"name": "adam-sgd", "rule": "cosine", "args": {"normalize": True}}],
            "normalize repeats what rule says; leave it out",
        ),
        (
            [{"name": "adam-sgdn", "rule": "cosine", "beta": 1e-7}],
            "1e-07 hardly moves α with rule cosine; try 0.02",
        ),
        (
            [{"name": "adam-sgd", "rule": "multiplicative"}],
            "missing for adam-sgd multiplicative, whose β depends on the unit of the loss; ",
        ),
        ([{"name": "adam-sgd", "rule": "cosine"}], "has no effect: it is for rule additive"),
        (
            ["sgd-sgd", {"name": "adam-sgd", "rule": "cosine", "alpha0": 0}],
            "rule cosine multiplies α, and 0 would stay 0; write an alpha0 above 0",
        ),
        (
            [
                "sgd-sgd",
                {"name": "adam-sgd", "rule": "cosine"},
                {"name": "adam-sgd", "rule": "cosine", "beta": 0.1},
            ],
            "would be shown as adam-sgd cosine, which is another optimizer's name; give it a label",
        ),
        (
            [{"name": "adam-sgdn", "rule": "cosine", "label": "adam-sgd cosine"}, "sgd-sgd"],
            "would be shown as adam-sgd cosine",
        ),
        (
            ["sgd-sgd", {"name": "adam-sgd", "rule": "cosine", "against": "sgd-sdg"}],
            "'sgd-sdg' is no other optimizer here; did you mean sgd-sgd?",
        ),
        ([{"name": "sgd-sgd", "args": {"rule": "cosine"}}], "set it by the optimizer's rule"),
    ],
)
def test_what_does_nothing_or_is_ambiguous_is_refused_in_one_line(refused, optimizers, message):
    (problem,) = refused(optimizers=optimizers)
    assert message in problem


def test_what_an_entry_is_compared_with_is_no_part_of_its_key(load):
    entry = {"name": "adam-sgdn", "rule": "cosine"}
    plain = load(optimizers=["sgd-sgd", "adam", entry])
    named = load(optimizers=["sgd-sgd", "adam", entry | {"against": ["adam", "sgd-sgd"]}])
    assert [t.key for t in plain.trials()] == [t.key for t in named.trials()]
    assert plain.named_baselines() == {}
    assert named.named_baselines() == {"adam-sgdn cosine": ("adam", "sgd-sgd")}
    assert load(named.to_yaml()) == named


def test_rules_of_one_name_are_searched_apart(load):
    study = load(
        optimizers=[
            "adam-sgdn",
            {"name": "adam-sgdn", "rule": "cosine", "beta": {"low": 1e-3, "high": 0.1}},
        ],
        alpha0={"low": 1e-5, "high": 0.1},
        search={"points": 3},
    )
    additive, cosine = study.arms()
    assert additive.key != cosine.key
    assert (cosine.template.rule, cosine.template.label) == ("cosine", "adam-sgdn cosine")
    assert set(cosine.space) == {"alpha0", "beta"}
    assert all(trial.rule == "cosine" for trial in cosine.trials(cosine.middle, [0, 1]))
