"""A smaller last batch may be left out; trials that keep it have the keys that they had before."""

import pytest

from study.config.loader import ConfigError, Trial, load_study
from study.execution import planning


def test_it_is_part_of_a_trial_only_where_it_is_set(write_study, tmp_path):
    plain, _ = write_study()
    same, _ = write_study(drop_last=False)
    dropping, _ = write_study(drop_last=True)
    assert [trial.key for trial in same.trials()] == [trial.key for trial in plain.trials()]
    assert "drop_last" not in plain.trials()[0].settings()
    assert not {trial.key for trial in dropping.trials()} & {trial.key for trial in plain.trials()}
    assert all(trial.drop_last for trial in dropping.trials())
    assert dropping.trials()[0].kind != plain.trials()[0].kind
    for study in (plain, dropping):
        again = tmp_path / "again.yaml"
        again.write_text(study.to_yaml())
        assert load_study(again) == study
        for trial in study.trials():
            assert Trial.from_settings(trial.settings()) == trial


@pytest.mark.parametrize("value", ["yes please", 1, 0.0, [True]])
def test_only_true_and_false_are_taken(write_study, value):
    with pytest.raises(ConfigError) as refused:
        write_study(drop_last=value)
    (problem,) = refused.value.problems
    assert "drop_last" in problem
    assert "write one of the two" in problem


@pytest.mark.parametrize(
    ("rows", "batch_size", "whole", "all_of_them"),
    [(1437, 128, 11, 12), (1408, 128, 11, 11), (100, 128, 1, 1), (1, 1, 1, 1), (129, 128, 1, 2)],
)
def test_batches_of_an_epoch(rows, batch_size, whole, all_of_them):
    def batches(drop_last):
        trial = Trial("w", "sgd", 0.1, None, 0, epochs=1, batch_size=batch_size, drop_last=drop_last)
        return trial.batches(rows)

    assert (batches(True), batches(False)) == (whole, all_of_them)


def test_the_plan_counts_the_batches_that_are_left(write_study):
    study, _ = write_study(drop_last=True)
    assert {planning.iterations(trial) for trial in study.trials()} == {2 * 11}
