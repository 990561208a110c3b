"""Workloads as users write them: a file in the current folder."""

import itertools

import pytest

_numbers = itertools.count()

USERS_WORKLOAD = """
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from study.workloads.base import Data, Workload

{top}

def load(folder):
    {load}
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(120) % 3
    inputs = torch.randn(120, 8, generator=random) + targets[:, None]
    {data}
    return Data(inputs[:90], targets[:90], inputs[90:], targets[90:])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, inputs):
        {forward}
        return self.layer(inputs)


def build():
    {build}
    return {model}


def loss(outputs, targets):
    {loss}
    return F.cross_entropy(outputs, targets)


def prepare(inputs, random):
    {prepare}
    return inputs


def work():
    {work}
    return Workload("users", load, build, loss{prepared})
"""


@pytest.fixture
def users_workload(tmp_path, monkeypatch):
    """A function that writes a workload, with some lines of its functions as given, and returns its name.

    ``model`` is an expression, ``prepared=True`` gives the workload its ``prepare`` function, every other
    argument is a statement for the function of that name.
    """
    folder = tmp_path / "users"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def write(model="nn.Sequential(nn.Linear(8, 3))", prepared=False, **statements):
        module = f"users_workload_{next(_numbers)}"
        lines = dict.fromkeys(("top", "load", "data", "forward", "build", "loss", "prepare", "work"), "pass")
        text = USERS_WORKLOAD.format(
            model=model, prepared=", prepare" if prepared else "", **(lines | statements)
        )
        (folder / f"{module}.py").write_text(text)
        return f"{module}:work"

    return write
