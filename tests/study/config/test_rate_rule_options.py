"""A study file reaches every rate rule, by its name or by an option."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

import hypergrad
from study.config.optimizer_options import ELSEWHERE, OPTIONS
from study.training.trainer import Training
from study.workloads import registry

RULES = {
    "adagrad": {"name": "sgd-adagrad"},
    "lion": {"name": "adam-lion", "args": {"lop_betas": [0.8, 0.9]}},
    "multiplicative": {"name": "sgd-sgd", "args": {"multiplicative": True}},
    "cosine": {"name": "sgdn-sgdn", "args": {"multiplicative": True, "normalize": True}},
    "bounds": {"name": "sgd-sgd", "args": {"lr_bounds": [0.005, 0.0105]}},
    "decoupled": {"name": "adam-adam", "args": {"decoupled_weight_decay": True}},
}


def test_every_argument_of_the_optimizers_has_its_place():
    arguments = set(inspect.signature(hypergrad.SGD).parameters)
    arguments |= set(inspect.signature(hypergrad.Adam).parameters)
    of_the_machine = {"params", "maximize", "foreach", "fused", "capturable", "differentiable"}
    of_version_0_1 = {"multiplicative", "normalize"}
    assert (set(OPTIONS) - of_version_0_1) | set(ELSEWHERE) | of_the_machine == arguments


@pytest.mark.parametrize("use", RULES.values(), ids=RULES)
def test_a_study_uses_the_rule(write_study, use):
    torch.set_num_threads(1)
    study, _ = write_study(optimizers=[use], seeds=1, epochs=1, beta=0.02, alpha0=[0.01], weight_decay=0.1)
    (trial,) = study.trials()
    workload = registry.resolve(trial.workload, trial.workload_args)
    training = Training(trial, workload, workload.load(None), torch.device("cpu"))
    group = training._optimizer.param_groups[0]
    for name, value in trial.optimizer_args.items():
        if name not in ("multiplicative", "normalize"):
            assert group[name] == value
    old = trial.optimizer_args.get("multiplicative", False), trial.optimizer_args.get("normalize", False)
    assert (
        group["rule"]
        == {(False, False): "additive", (True, False): "multiplicative", (True, True): "cosine"}[old]
    )
    (record,) = training.epochs()
    alpha = np.asarray(record.alpha)
    assert np.isfinite(alpha).all()
    assert len(set(alpha)) > 1
    if "lr_bounds" in trial.optimizer_args:
        assert alpha.min() >= 0.005
        assert alpha.max() == np.float32(0.0105)
