"""The command ``init``: writes a commented study file as a start."""

from __future__ import annotations

import shlex
from pathlib import Path

from study.cli.options import command_line, refuse, say
from study.config import messages
from study.config.catalogue import CATALOGUE
from study.config.loader import load_study
from study.config.optimizer_name import LOPS, OPS
from study.config.validators import is_study_name

TEMPLATE = """\
# A study: every optimizer with every alpha0, beta and seed on every workload.
#   hypergrad-study plan {file}     shows its trials and what they cost
#   hypergrad-study run {file}      runs or resumes it
name: {name}
description: Does learning the learning rate help?

# What is trained: {workloads};
# or a function of your own as module:function.
workloads: [digits-logreg]

# OP or OP-LOP. OP moves the parameters: {ops}. LOP learns the learning rate: {lops}.
# Also any torch.optim.Optimizer by its path: torch.optim.AdamW
optimizers: [sgd, sgd-sgd, adam, adam-adam]

# The first learning rate. Every optimizer runs with each.
alpha0: [0.1, 0.01, 0.001]

# The learning rate of the learning rate: one number, or one by op or by optimizer; lists are fine.
beta: {{sgd: 1e-3, adam: 1e-5}}

# Six seeds or more, or the report calls every comparison undecided.
seeds: 6

# The budget of a trial: epochs, or iterations.
epochs: 10
batch_size: 128
weight_decay: 1e-4

# The report counts the iterations to this minibatch training loss; one number, or one by workload.
threshold: 0.5

# For each process. Fractions share a device: gpus: 0.25
resources: {{cpus: 1, gpus: 0}}

# A run ends after this many hours, with its report; the next one resumes the study.
# budget: {{hours: 8}}

# Instead of a grid, draw alpha0 and beta from ranges, alpha0: {{low: 1e-4, high: 1}}, with
# search: optuna
"""


def write(path: Path) -> None:
    """Write a study file named after its path; refuse to replace one.

    Args:
        path: The file. Its name without the suffix becomes the study's name.
    """
    path = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    name = path.stem
    if not is_study_name(name):
        shown = messages.one_line(name, 60)
        refuse(f"{shown}: not the name of a study; use letters, digits, dots, dashes and underscores")
    content = TEMPLATE.format(
        name=name,
        file=shlex.quote(str(path)),
        workloads=", ".join(CATALOGUE),
        ops=", ".join(OPS),
        lops=", ".join(LOPS),
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        refuse(f"{path}: exists already; name another file")
    load_study(path)
    say(f"{path}: edit it, then: {command_line('plan', str(path))}")
