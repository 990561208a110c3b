"""Optuna's samplers as a study file names them, and their memory of an arm: the only module, besides
``study.analysis.tuning``, that imports optuna.

A sampler's random draws depend on the search's seed, the arm and the number of the point alone, and all else
that it goes by is in its storage. So a search that was interrupted asks for the points that it would have
asked for undisturbed.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from study.analysis.objective import PointScore
from study.config.search_space import Arm
from study.config.sections import SAMPLERS, Range

optuna.logging.set_verbosity(optuna.logging.WARNING)

STATES = {
    "open": TrialState.RUNNING,
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
    "complete": TrialState.COMPLETE,
}
"""What a point's state is called in Optuna."""


class SamplerError(ValueError):
    """A sampler cannot be made as the study file says."""


class ArmSampler(BaseSampler):
    """The sampler of one arm: as the study file names it, seeded by point, its values rounded.

    Args:
        arm: whose points are asked for.

    Raises:
        SamplerError: the sampler does not take the arguments, or needs a package that is not there.
    """

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._number = 0
        self._inner = self._make(0)

    def reseed_rng(self) -> None:
        """Nothing: draws are seeded by point."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Turn to the trial's own random draws."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the named sampler."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the named sampler, rounded."""
        drawn = self._of(trial).sample_relative(study, trial, search_space)
        return {name: self._arm.space[name].round(value) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the named sampler, rounded."""
        drawn = self._of(trial).sample_independent(study, trial, param_name, param_distribution)
        return self._arm.space[param_name].round(drawn)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the named sampler."""
        self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        # A quasi-random sequence is one sequence: its seed is the arm's, and its place is in the storage.
        if trial.number != self._number and self._arm.search.sampler != "qmc":
            self._number, self._inner = trial.number, self._make(trial.number)
        return self._inner

    def _make(self, number: int) -> BaseSampler:
        search = self._arm.search
        kind = getattr(optuna.samplers, SAMPLERS[search.sampler])
        digest = sha256(f"{search.seed} {self._arm.key} {number}".encode()).digest()
        try:
            if search.sampler == "cmaes":
                importlib.import_module(
                    "cmaes"
                )  # which Optuna imports later, without being installed with it
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sampler: BaseSampler = kind(**search.args, seed=int.from_bytes(digest[:4], "big"))
        except (TypeError, ValueError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise SamplerError(f"search: the sampler {search.sampler} cannot be made: {reason}") from error
        return sampler


def space(arm: Arm) -> dict[str, BaseDistribution]:
    """Return what is searched in Optuna's terms."""
    return {name: _distribution(values) for name, values in arm.space.items()}


def remember(storage: BaseStorage, arm: Arm, worths: Sequence[PointScore]) -> None:
    """Bring the storage's memory of an arm to what the points and the journals say, if it says otherwise.

    They are the truth; a storage may be lost, cut off between two writes, or have been told values by another
    threshold. Where it agrees it is left alone, for some samplers keep more in it than that.

    Args:
        storage: Optuna's; the arm's study in it goes by the arm's key.
        arm: whose memory it is.
        worths: of all its points that were asked, in their order.
    """
    try:
        known = optuna.load_study(study_name=arm.key, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        pass
    else:
        if len(known) == len(worths) and all(map(_agree, known, worths, [arm] * len(known))):
            return
        optuna.delete_study(study_name=arm.key, storage=storage)
    if not worths:
        return
    fresh = optuna.create_study(study_name=arm.key, storage=storage, direction="minimize")
    for worth in worths:
        told = {len(worth.epochs): worth.epochs[-1]} if worth.state == "pruned" else None
        fresh.add_trial(
            optuna.create_trial(
                state=STATES[worth.state],
                value=worth.value,
                params=_params(arm, worth),
                distributions=space(arm),
                intermediate_values=told,
            )
        )


def _distribution(values: Range) -> FloatDistribution:
    return FloatDistribution(values.low, values.high, log=True)


def _params(arm: Arm, worth: PointScore) -> dict[str, float]:
    return {name: getattr(worth.point, name) for name in arm.space}


def _agree(trial: FrozenTrial, worth: PointScore, arm: Arm) -> bool:
    # Of a trial that the storage has as running, the rest is still to be told.
    return trial.params == _params(arm, worth) and (
        trial.state == TrialState.RUNNING
        or (trial.state == STATES[worth.state] and (worth.value is None or trial.value == worth.value))
    )
