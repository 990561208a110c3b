"""A study: workloads × optimizers × α₀ × β × seeds under one budget, a grid or a search; its trials."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from study.config import study_checks
from study.config.search_space import NOTHING_FOUND, Arm, SearchState
from study.config.sections import OptimizerSection, Range, WorkloadSection
from study.config.study_file import StudyFile
from study.config.trial import Trial


class Study(StudyFile):
    """A validated study, and its trials.

    ::

        >>> from study import load_study
        >>> study = load_study("quickstart")
        >>> study.trials()[0].name
        'sgd α₀=0.01 seed=0'

    A grid has all its trials from the start. A search chooses them while it runs. Its ``state`` holds those
    that it has chosen so far; ``study.storage.study_folder.StudyFolder.search_state`` reads it. A grid needs
    no state.
    """

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        study_checks.check(self)
        return self

    def trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the study's trials.

        For a grid they are all trials, by workload, optimizer, α₀, β, seed, each in the order of the file.
        For a search they are those in ``state``: for each workload and optimizer the trials of its points as
        asked, by search seed; then, once there is a best point, its trials on the study's seeds.

        Args:
            state: The state of the search. Default: nothing found. A grid ignores it.
        """
        if self.search is None:
            return [
                trial
                for workload in self.workloads
                for optimizer in self.optimizers
                for alpha0 in self.alpha0s(optimizer)
                for beta in self.betas(optimizer)
                for trial in self._trial(workload, optimizer, alpha0, beta, 0).seeded(self.seeds)
            ]
        trials: dict[Trial, None] = {}
        for arm in self.arms():
            for point in arm.points(state):
                trials |= dict.fromkeys(arm.trials(point, self.search.seeds))
            if best := arm.best(state):
                trials |= dict.fromkeys(arm.trials(best, self.seeds))
        return list(trials)

    def reported(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the trials from which conclusions are drawn: all of a grid, those of a search's best points.

        Until the search of a first arm has finished, they are all trials that the search has tried.
        """
        known = self.trials(state)
        return [trial for trial in known if not self.is_search_trial(trial)] or known

    def is_search_trial(self, trial: Trial) -> bool:
        """Return whether the trial only helps to choose a point."""
        return self.search is not None and trial.seed in self.search.seeds

    def placeholder_trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return stand-ins, with made-up α₀ and β, for the trials that a search has yet to choose."""
        trials = []
        for arm in self.arms():
            for _ in range(arm.search.points - len(arm.points(state))):
                trials += arm.trials(arm.middle, arm.search.seeds)
            if arm.best(state) is None:
                trials += arm.trials(arm.middle, self.seeds)
        return trials

    def planned_trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the known trials and stand-ins for later ones, to count and cost the whole study."""
        return [*self.trials(state), *self.placeholder_trials(state)]

    def arms(self) -> list[Arm]:
        """Return the arms of a search, by workload and optimizer as in the file; none for a grid."""
        if self.search is None:
            return []
        return [
            Arm(self._trial(workload, optimizer, 0.0, 0.0, 0), alpha0, beta, self.search)
            for workload in self.workloads
            for optimizer in self.optimizers
            for alpha0 in self.alpha0s(optimizer)
            for beta in self.betas(optimizer)
        ]

    def named_baselines(self) -> dict[str, tuple[str, ...]]:
        """Return the baselines that the file names for each optimizer, all by their names in tables."""
        found: dict[str, tuple[str, ...]] = {}
        for optimizer in self.optimizers:
            found[optimizer.shown_as] = found.get(optimizer.shown_as, ()) + (optimizer.against or ())
        return {name: tuple(dict.fromkeys(bases)) for name, bases in found.items() if bases}

    def threshold(self, trial: Trial) -> float | None:
        """Return the trial's threshold of the training loss; ``None`` if the study sets none for it."""
        return self.threshold_of(trial.workload, trial.optimizer)

    def default_alpha0(self, trial: Trial) -> float | None:
        """Return the α₀ that represents the trial's optimizer without tuning; ``None`` if there is none."""
        named = (o.default_alpha0 for o in self.optimizers if o.shown_as == trial.label)
        return next((default for default in named if default is not None), None)

    def _trial(
        self,
        workload: WorkloadSection,
        optimizer: OptimizerSection,
        alpha0: float | Range,
        beta: float | Range | None,
        seed: int,
    ) -> Trial:
        assert not isinstance(alpha0, Range)
        assert not isinstance(beta, Range)
        return Trial(
            workload=workload.use,
            optimizer=optimizer.name,
            alpha0=alpha0,
            beta=beta,
            seed=seed,
            epochs=self.epochs,
            iterations=self.iterations,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            granularity=self.granularity_of(optimizer),
            workload_args=workload.args,
            optimizer_args=optimizer.args,
            schedule=optimizer.schedule,
            drop_last=self.drop_last,
            precision=self.precision,
            rule=optimizer.rule_or_default,
            label=optimizer.shown_as,
        )
