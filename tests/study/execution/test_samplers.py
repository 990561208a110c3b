"""Optuna's samplers over an arm: what they draw, and what they are refused."""

import importlib.util
import math

import numpy as np
import optuna
import pytest
import scipy.stats

from study.execution import samplers


class TestSamplers:
    def draw(self, arm, count, value):
        """Ask for ``count`` points outright; ``value`` says what each is worth."""
        study = optuna.create_study(sampler=samplers.ArmSampler(arm))
        drawn = []
        for _ in range(count):
            trial = study.ask(samplers.space(arm))
            drawn.append(trial.params)
            study.tell(trial, value(trial.params))
        return drawn

    def test_random_points_are_even_in_the_logarithm(self, searched):
        (arm,) = searched(optimizers=["sgd-sgd"], sampler="random").arms()
        drawn = self.draw(arm, 300, lambda params: 0.0)
        for name, within in arm.space.items():
            spread = np.log(within.low), np.log(within.high / within.low)
            test = scipy.stats.kstest([np.log(point[name]) for point in drawn], "uniform", args=spread)
            assert test.pvalue > 0.01
        together = np.corrcoef(*(np.log([point[name] for point in drawn]) for name in arm.space))
        assert abs(together[0, 1]) < 0.15

    @pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "nsgaii", "nsgaiii"])
    def test_every_sampler_copes_with_points_that_diverge(self, searched, sampler):
        (arm,) = searched(optimizers=["sgd-sgd"], sampler=sampler).arms()
        drawn = self.draw(arm, 12, lambda params: math.inf if params["alpha0"] > 0.01 else params["alpha0"])
        assert len({tuple(point.values()) for point in drawn}) == 12

    def test_tpe_finds_a_valley_sooner_than_chance(self, searched):
        """Mean best of 30 points over 10 seeds, on a known bowl in the logarithms."""

        def bowl(params):
            return np.log10(params["alpha0"] / 0.03) ** 2 + np.log10(params["beta"] / 1e-4) ** 2

        best = {}
        for sampler in ("random", "tpe"):
            arms = [
                searched(optimizers=["sgd-sgd"], sampler=sampler, seed=seed).arms()[0] for seed in range(10)
            ]
            best[sampler] = np.mean([min(map(bowl, self.draw(arm, 30, bowl))) for arm in arms])
        assert best["tpe"] < best["random"]

    @pytest.mark.parametrize(
        ("search", "words"),
        [
            ({"args": {"n_startup": 3}}, "search: cannot make the sampler tpe: .*n_startup"),
            ({"sampler": "cmaes"}, "search: cannot make the sampler cmaes: .*cmaes"),
        ],
    )
    def test_one_that_cannot_be_made_is_refused_before_anything_runs(self, searched, search, words):
        if search.get("sampler") == "cmaes" and importlib.util.find_spec("cmaes"):
            pytest.skip("the package cmaes is installed")
        (arm,) = searched(optimizers=["sgd"], **search).arms()
        with pytest.raises(samplers.SamplerError, match=words):
            samplers.ArmSampler(arm)
