"""What a search's points are worth, from the records of their trials."""

import math

import numpy as np
import pytest

from study.analysis import objective
from study.config.search_space import Point
from study.storage.records import EpochRecord, TrialRecord


def trained(trial, losses, status="finished", iterations=10):
    """A record whose epochs have these mean training losses, and validation losses half of them."""
    epochs = tuple(
        EpochRecord(
            epoch=number,
            first_iteration=1 + (number - 1) * iterations,
            alpha=np.full(iterations, 0.1),
            hypergradient=np.full(iterations, math.nan),
            train_loss=np.linspace(loss + 0.1, loss - 0.1, iterations),
            val_loss=loss / 2,
            val_accuracy=1 - loss / 10,
            seconds=1.0,
        )
        for number, loss in enumerate(losses, start=1)
    )
    return TrialRecord(trial, status=status, epochs=epochs)


class TestWorth:
    @pytest.fixture
    def arm(self, searched):
        def arm(objective, **more):
            study = searched(optimizers=["sgd"], epochs=3, objective=objective, threshold=0.5, **more)
            return study.arms()[0]

        return arm

    def worth(self, arm, *records, prunes=False):
        point = arm.point(0, {"alpha0": 0.1})
        known = [
            trained(trial, *record)
            for trial, record in zip(arm.trials(point, arm.search.seeds), records, strict=False)
        ]
        return objective.score_point(arm, point, {r.trial.key: r for r in known}, 0.5, prunes=prunes)

    @pytest.mark.parametrize(
        ("name", "value", "measured"),
        [
            ("best_val_loss", 0.35, 0.35),  # of 0.3 and 0.4
            ("final_val_loss", 0.45, 0.45),  # of 0.3 and 0.6
            ("final_train_loss", 0.9, 0.9),
            ("best_val_accuracy", 0.07, 0.93),  # of 0.94 and 0.92
        ],
    )
    def test_losses_and_accuracy_are_medians_over_seeds(self, arm, name, value, measured):
        worth = self.worth(arm(name), ([2.0, 1.0, 0.6],), ([2.0, 0.8, 1.2],))
        assert worth.state == "complete"
        assert (worth.value, worth.measured) == (pytest.approx(value), pytest.approx(measured))

    def test_iterations_are_a_share_of_the_budget_and_nearer_misses_are_less_bad(self, arm):
        def value(*losses, status="finished"):
            return self.worth(arm("iterations_to_threshold", seeds=1), (list(losses), status)).value

        # 0.6 goes down to 0.5 in the tenth and last iteration of its epoch.
        assert value(2.0, 0.6, 0.6) == pytest.approx(20 / 30)
        assert value(0.6, 0.6, 0.6) == pytest.approx(10 / 30)
        assert value(2.0, 1.5, 1.0) == pytest.approx(1 + 0.5 / 1.5)
        assert value(2.0, 1.5, 1.2) == pytest.approx(1 + 0.7 / 1.7)
        assert value(0.6, 0.6, status="diverged") == 2.0
        ranks = [value(0.6, 9, 9), value(2, 2, 0.6), value(2, 2, 0.61), value(2, 2, 99)]
        assert ranks == sorted(ranks)
        assert ranks[-1] < 2

    def test_divergence_is_the_worst_there_is(self, arm):
        worth = self.worth(arm("best_val_loss"), ([0.1],), ([0.1], "diverged"))
        assert (worth.state, worth.value) == ("complete", math.inf)

    def test_states(self, arm):
        of = arm("best_val_loss")
        done, pruned = ([1.0, 0.5, 0.4],), ([2.0], "pruned")
        assert self.worth(of, done).state == "open"
        assert self.worth(of, done, ([1.0], "running")).state == "open"
        assert self.worth(of, done, ([1.0], "failed")).state == "failed"
        assert self.worth(of, pruned, pruned, prunes=True).state == "pruned"
        assert self.worth(of, pruned, pruned, prunes=True).epochs == (1.0,)
        assert self.worth(of, pruned, ([], "pruned"), prunes=True).state == "open", "its epochs were lost"
        assert self.worth(of, pruned, pruned, prunes=False).state == "open", (
            "without a scheduler it is wanted"
        )

    def test_the_best_is_the_smallest_and_of_equals_the_first(self):
        def worth(number, value, state="complete"):
            return objective.PointScore(Point("a", number, 0.1, None), state, value)

        assert objective.best([]) is None
        assert objective.best([worth(0, None, "pruned"), worth(1, None, "failed")]) is None
        among = [worth(0, math.inf), worth(1, 0.2), worth(2, 0.2), worth(3, None, "pruned")]
        assert objective.best(among).point.number == 1
