"""What a trial's precision changes, and what stays float32. Without a GPU: bfloat16 on the CPU."""

from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from study.config.trial import PRECISIONS, Trial
from study.storage.study_folder import StudyFolder
from study.training import precision
from study.training.device import machine
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.training.worker import WorkerOptions, run_bundle
from study.workloads import cifar, torch_settings
from study.workloads.base import Data, Workload

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(folder=None) -> Data:
    random = np.random.RandomState(7)
    targets = np.arange(100) % 2
    pixels = random.randint(0, 120, size=(100, 3, 8, 8)) + 100 * targets[:, None, None, None]
    inputs, classes = torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(targets)
    return Data(inputs[:64], classes[:64], inputs[64:], classes[64:])


class Noted(nn.Linear):
    """Notes the dtype of its outputs and of its weights' gradients."""

    outputs: ClassVar[set[torch.dtype]] = set()
    gradients: ClassVar[set[torch.dtype]] = set()

    def __init__(self, *args):
        super().__init__(*args)
        self.weight.register_hook(lambda gradient: self.gradients.add(gradient.dtype))

    def forward(self, inputs):
        outputs = super().forward(inputs)
        self.outputs.add(outputs.dtype)
        return outputs


def vgg(last=nn.Linear) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(),
        last(16, 2),
    )


losses = set()


def loss(outputs, targets):
    losses.add(outputs.dtype)
    return nn.functional.cross_entropy(outputs, targets)


WORK = Workload("vgg", pictures, vgg, loss, cifar.prepare)


def trial(computing, alpha0=0.02, seed=0, **more):
    more = {"epochs": 3, "batch_size": 16} | more
    return Trial("w", "sgdn-adam", alpha0, 1e-4, seed, precision=computing, **more)


def test_in_bf16_the_model_runs_in_bfloat16_and_all_else_in_float32():
    losses.clear()
    Noted.outputs.clear()
    work = Workload("noted", pictures, lambda: vgg(Noted), loss, cifar.prepare)
    training = Training(trial("bf16"), work, pictures(), CPU)
    records = list(training.epochs())
    assert Noted.outputs == {torch.bfloat16}
    assert Noted.gradients == {torch.float32}
    assert losses == {torch.float32}
    tensors = torch.utils._pytree.tree_leaves(training.state_dict())
    floating = {t.dtype for t in tensors if isinstance(t, torch.Tensor) and t.is_floating_point()}
    assert floating == {torch.float32}
    for curve in ("train_loss", "alpha", "hypergradient"):
        assert {getattr(record, curve).dtype for record in records} == {np.dtype(np.float32)}


def test_bf16_rounds_and_trains_all_the_same():
    curves = {}
    for name in PRECISIONS:
        records = list(Training(trial(name, epochs=10), WORK, pictures(), CPU).epochs())
        curves[name] = np.concatenate([record.train_loss for record in records])
    assert np.array_equal(curves["tf32"], curves["float32"])  # a CPU knows no TF32
    assert not np.array_equal(curves["bf16"], curves["float32"])
    np.testing.assert_allclose(curves["bf16"][:3], curves["float32"][:3], rtol=0.02)
    assert curves["bf16"][-4:].mean() < 0.6 * curves["bf16"][:4].mean()


def test_a_pack_in_bf16_is_its_trials_alone_up_to_its_rounding():
    trials = [trial("bf16", alpha0, seed) for alpha0, seed in ((0.02, 0), (0.01, 0), (0.02, 1))]
    packed = {t.key: [] for t in trials}
    for records in PackTraining(trials, WORK, pictures(), CPU).epochs():
        for member, record in records:
            packed[member.key].append(record)
    for member in trials:
        for mine, other in zip(
            packed[member.key], Training(member, WORK, pictures(), CPU).epochs(), strict=True
        ):
            for curve in ("train_loss", "alpha"):
                a, b = getattr(mine, curve), getattr(other, curve)
                np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * np.abs(b).max(), err_msg=curve)


def test_settings_for_a_gpu():
    """Read back from torch, which keeps them without a GPU too."""
    before = torch_settings.describe_precision(GPU), torch.backends.cudnn.benchmark
    said = {}
    for name in PRECISIONS:
        with torch_settings.in_force(precision.settings(name, GPU)):
            said[name] = precision.describe(name, GPU)
            assert torch.backends.cudnn.benchmark
            assert precision.describe("float32", CPU) == "float32"
    assert said == {
        "float32": "float32",
        "tf32": "float32 (tf32 in matmul, tf32 in convolution, tf32 in rnn)",
        "bf16": "bfloat16 autocast, float32 else",
    }
    assert (torch_settings.describe_precision(GPU), torch.backends.cudnn.benchmark) == before
    with torch_settings.in_force(precision.settings("float32", CPU)):
        assert torch.backends.cudnn.benchmark == before[1]


def test_what_a_workload_sets_comes_before_the_settings_of_a_precision():
    owner = object()
    with torch_settings.keeping(owner):
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    with torch_settings.in_force(precision.settings("tf32", GPU, owner)):
        assert torch.backends.cudnn.deterministic
        assert not torch.backends.cudnn.benchmark
        assert "tf32" in torch_settings.describe_precision(GPU)


def test_pictures_lie_with_their_channels_last_where_tensor_cores_take_them():
    on_gpu, rows = SimpleNamespace(device=GPU, ndim=4), SimpleNamespace(device=GPU, ndim=2)
    assert [precision.uses_channels_last(name, on_gpu) for name in PRECISIONS] == [False, True, True]
    assert not precision.uses_channels_last("bf16", rows)
    given = precision.run("bf16", lambda inputs: inputs, torch.zeros(2, 3, 4, 4))
    assert given.is_contiguous()


@pytest.mark.parametrize("name", PRECISIONS)
@pytest.mark.parametrize("pack", [1, 2])
def test_a_journal_says_how_its_trial_computed(name, pack, tmp_path, monkeypatch):
    monkeypatch.setattr("study.workloads.registry.resolve", lambda *_: WORK)
    folder, trials = StudyFolder(tmp_path, "s"), [trial(name, epochs=1), trial(name, seed=1, epochs=1)]
    assert {status for _, status in run_bundle(trials, folder, WorkerOptions(pack=pack))} == {"finished"}
    for record in folder.records(trials):
        expected = "bfloat16 autocast, float32 else" if name == "bf16" else "float32"
        assert record.machine["precision"] == expected == machine(CPU, name)["precision"]
        assert record.trial.precision == name
