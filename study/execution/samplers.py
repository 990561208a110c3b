"""Creates the Optuna samplers that a study file names, and restores their memory of an arm.

A sampler's random draws depend only on the search's seed, the arm and the number of the point, and the rest
of its state is in its storage. So a search that was interrupted asks for the same points as one that was not.
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
from study.config.search_section import SAMPLERS
from study.config.search_space import Arm
from study.config.sections import Range

optuna.logging.set_verbosity(optuna.logging.WARNING)

STATES = {
    "open": TrialState.RUNNING,
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
    "complete": TrialState.COMPLETE,
}
"""Optuna's names for the states of a point."""


class SamplerError(ValueError):
    """A sampler cannot be created with the study file's options; the message is one line."""


class ArmSampler(BaseSampler):
    """The sampler that the study file names, for one arm: seeded for every point, with rounded values.

    Args:
        arm: The arm whose points the sampler draws.

    Raises:
        SamplerError: The sampler does not take the arguments, or needs a package that is not installed.
    """

    def __init__(self, arm: Arm) -> None:
        self._arm = arm
        self._number = 0
        self._inner = self._make(0)

    def reseed_rng(self) -> None:
        """Do nothing: every point has its own seed."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Use the random draws of the trial's number."""
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the search space of the named sampler."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the values that the named sampler draws, rounded."""
        drawn = self._of(trial).sample_relative(study, trial, search_space)
        return {name: self._arm.space[name].round(value) for name, value in drawn.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value that the named sampler draws, rounded."""
        drawn = self._of(trial).sample_independent(study, trial, param_name, param_distribution)
        return self._arm.space[param_name].round(drawn)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell the named sampler how the trial ended."""
        self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        # A quasi-random sequence has one seed, the arm's; the storage knows how many points were drawn.
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
            raise SamplerError(f"search: cannot make the sampler {search.sampler}: {reason}") from error
        return sampler


def space(arm: Arm) -> dict[str, BaseDistribution]:
    """Return the search space of an arm as Optuna's distributions."""
    return {name: _distribution(values) for name, values in arm.space.items()}


def study_name(arm: Arm) -> str:
    """Return the name of an arm's study in Optuna's storage: ``digits-logreg adam-adam 1f0e57aa``."""
    return f"{arm.template.workload} {arm.template.label} {arm.key[:8]}"


def user_attributes(arm: Arm) -> dict[str, Any]:
    """Return the attributes of an arm's study that Optuna's tools show beside its trials."""
    return {
        "workload": arm.template.workload,
        "optimizer": arm.template.label,
        "score": f"median of {arm.search.objective} over seeds {', '.join(map(str, arm.search.seeds))}; "
        "lower is better",
        "arm": arm.key,
    }


def rename(storage: BaseStorage, arm: Arm) -> None:
    """Rename an arm's study of version 0.1, which named it by the arm's key alone; keep its content.

    Args:
        storage: Optuna's storage.
        arm: The arm.
    """
    known = optuna.get_all_study_names(storage)
    if arm.key not in known:
        return
    if study_name(arm) in known:  # renaming was interrupted
        optuna.delete_study(study_name=study_name(arm), storage=storage)
    optuna.copy_study(
        from_study_name=arm.key, from_storage=storage, to_storage=storage, to_study_name=study_name(arm)
    )
    optuna.delete_study(study_name=arm.key, storage=storage)


def remember(storage: BaseStorage, arm: Arm, worths: Sequence[PointScore]) -> None:
    """Make Optuna's study of an arm agree with the points and the journals.

    The journals are the truth. A storage may be lost, cut off between two writes, or hold values for another
    threshold. If it agrees it is left alone, because some samplers keep more in it.

    Args:
        storage: Optuna's storage.
        arm: The arm.
        worths: Scores of all points that were asked, in their order.
    """
    try:
        known = optuna.load_study(study_name=study_name(arm), storage=storage).get_trials(deepcopy=False)
    except KeyError:
        pass
    else:
        if len(known) == len(worths) and all(map(_agree, known, worths, [arm] * len(known))):
            return
        optuna.delete_study(study_name=study_name(arm), storage=storage)
    if not worths:
        return
    fresh = optuna.create_study(study_name=study_name(arm), storage=storage, direction="minimize")
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
    # A trial that is running in the storage gets its end later.
    return trial.params == _params(arm, worth) and (
        trial.state == TrialState.RUNNING
        or (trial.state == STATES[worth.state] and (worth.value is None or trial.value == worth.value))
    )
