"""The precision of a study; trials in float32 have the keys that they had before there was another."""

import pandas as pd
import pytest

from study.analysis.pairing import CELL, cells
from study.analysis.tables import trial_table
from study.config.loader import ConfigError, Trial, load_study
from study.config.trial import PRECISIONS


def test_it_is_part_of_a_trial_only_where_it_is_not_float32(write_study, tmp_path):
    plain, _ = write_study()
    same, _ = write_study(precision="float32")
    assert [trial.key for trial in same.trials()] == [trial.key for trial in plain.trials()]
    assert "precision" not in plain.trials()[0].settings()
    keys, kinds = set(), set()
    for name in PRECISIONS:
        study, _ = write_study(precision=name)
        keys |= {trial.key for trial in study.trials()}
        kinds.add(study.trials()[0].kind)
        assert {trial.precision for trial in study.trials()} == {name}
        again = tmp_path / "again.yaml"
        again.write_text(study.to_yaml())
        assert load_study(again) == study
        for trial in study.trials():
            assert Trial.from_settings(trial.settings()) == trial
    assert len(keys) == 3 * len(plain.trials())
    assert len(kinds) == 3


@pytest.mark.parametrize(
    ("value", "said"),
    [("fp32", "'fp32' is not a precision"), ("bf61", "did you mean bf16?"), (32, "32 is not")],
)
def test_another_precision_is_refused_in_one_line(write_study, value, said):
    with pytest.raises(ConfigError) as refused:
        write_study(precision=value)
    (problem,) = refused.value.problems
    assert "precision" in problem
    assert said in problem
    with pytest.raises(ValueError, match="precision must be one of float32, tf32, bf16"):
        Trial("w", "sgd", 0.1, None, 0, epochs=1, precision=value)


def test_trials_of_different_precision_are_never_pooled(write_study):
    tables = [trial_table([], write_study(precision=name)[0]) for name in PRECISIONS]
    one = len(list(cells(tables[0], CELL)))
    assert len(list(cells(pd.concat(tables), CELL))) == 3 * one
