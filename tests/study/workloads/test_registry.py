from __future__ import annotations

import hashlib
import inspect
import math
import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers
from torchvision.transforms import functional as TF

from study.config.catalogue import CATALOGUE
from study.workloads import base, cifar, digits, models, registry
from study.workloads.base import Data, Workload
from study.workloads.registry import WorkloadError, resolve

ARGS = {"imagefolder-vgg16": {"path": "pictures", "classes": 10}}
INPUTS = {"digits": (64,), "mnist": (784,), "cifar10": (3, 32, 32), "imagefolder": (3, 32, 32)}
OWN = [
    name
    for name in CATALOGUE
    if name.endswith(("-logreg", "-mlp", "-vgg16")) and name.split("-")[0] in INPUTS
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(registry, "_resolved", {})
    return tmp_path


def message(name: str, **args: object) -> str:
    with pytest.raises(WorkloadError) as caught:
        resolve(name, args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names and users' own workloads


def test_importing_the_catalogue_and_storage_does_not_import_torch() -> None:
    check = "import sys, study.workloads.registry, study.workloads.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("name", OWN)
def test_catalogue_name_gives_a_workload_whose_model_takes_its_inputs(name: str) -> None:
    workload = resolve(name, ARGS.get(name, {}))
    assert workload.name == name
    inputs = torch.zeros(2, *INPUTS[name.split("-")[0]])
    if workload.prepare is not None:
        inputs = workload.prepare(inputs.to(torch.uint8), None)
    assert workload.build()(inputs).shape == (2, 10)


def test_example_in_the_documentation_is_a_workload_that_learns(folder: Path) -> None:
    source = inspect.getdoc(base) or ""
    example = source.split("started from::\n")[1].split("\nA study then names it")[0]
    (folder / "spirals.py").write_text(textwrap.dedent(example), encoding="utf-8")
    before = sys.path.copy()

    workload = resolve("spirals:spirals", {"hidden": 48})
    assert sys.path == before
    data = workload.load(folder)
    torch.manual_seed(0)
    model = workload.build()
    assert next(model.parameters()).shape == (48, 2)

    assert workload.prepare is not None
    torch.testing.assert_close(workload.prepare(data.val_inputs, None), data.val_inputs)
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        inputs = workload.prepare(data.train_inputs, random)
        workload.loss(model(inputs), data.train_targets).backward()
        optimizer.step()
    accuracy = (model(data.val_inputs).argmax(1) == data.val_targets).float().mean()
    assert accuracy > 0.9


def test_same_name_and_arguments_give_the_same_object() -> None:
    first = resolve("imagefolder-vgg16", {"path": "a", "classes": 10})
    assert resolve("imagefolder-vgg16", {"classes": 10, "path": "a"}) is first
    assert resolve("imagefolder-vgg16", {"path": "b", "classes": 10}) is not first


def test_current_folder_is_searched_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = folder / "installed"
    installed.mkdir()
    for place, name in ((installed, "right"), (folder, "wrong")):
        (place / "shadowed.py").write_text(
            "from study.workloads.base import Workload\n"
            f"def make():\n    return Workload({name!r}, load=None, build=None)\n"
        )
    monkeypatch.syspath_prepend(str(installed))
    assert resolve("shadowed:make", {}).name == "right"


def test_unknown_name_is_answered_with_the_nearest() -> None:
    told = message("mnist-logrig")
    assert "did you mean 'mnist-logreg'?" in told
    assert all(name in told for name in CATALOGUE)
    assert "module:function" in message("my workload: spirals")


def test_missing_module_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    told = message("nosuchmodule:make")
    assert "no module 'nosuchmodule'" in told
    assert str(folder) in told
    assert "no module 'study.nosuch'" in message("study.nosuch:make")


def test_a_module_that_fails_to_import_says_why(folder: Path) -> None:
    (folder / "needs.py").write_text("import nosuchlibrary\n")
    assert "importing needs: ModuleNotFoundError: No module named 'nosuchlibrary'" in message("needs:make")
    (folder / "broken.py").write_text("def make(:\n")
    assert "importing broken: SyntaxError" in message("broken:make")


def test_missing_function_is_answered_with_the_nearest(folder: Path) -> None:
    (folder / "mine.py").write_text("number = 1\ndef spirals():\n    pass\n")
    assert "mine has no function 'spiral' (did you mean 'spirals'?)" in message("mine:spiral")
    assert "'number' is not a function" in message("mine:number")


def test_arguments_that_do_not_fit_are_answered_with_those_that_do() -> None:
    told = message("imagefolder-vgg16", path="a", clases=3)
    assert "'clases'" in told
    assert "classes: int = 10" in told or "classes: 'int' = 10" in told
    assert "missing a required argument: 'path'" in message("imagefolder-vgg16")
    assert "size must be a whole number from 32, got 28" in message("imagefolder-vgg16", path="a", size=28)
    assert "classes must be a whole number from 2" in message("imagefolder-vgg16", path="a", classes="3")


def test_a_function_that_fails_or_returns_something_else_is_an_error(folder: Path) -> None:
    (folder / "fails.py").write_text(
        "def raises(n):\n    raise KeyError(n)\ndef wrong():\n    return {'load': None}\n"
    )
    assert "KeyError: 3" in message("fails:raises", n=3)
    assert "returned dict, not study.workloads.base.Workload" in message("fails:wrong")


def test_data_refuses_rows_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="val_inputs has 2 rows and val_targets has 3"):
        Data(torch.zeros(1, 4), torch.zeros(1), torch.zeros(2, 4), torch.zeros(3))


# Digits


@pytest.mark.parametrize("elsewhere", [False, True])
def test_digits_are_sklearns_split_in_two_without_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    if elsewhere:  # a version of scikit-learn that keeps the file in another place
        monkeypatch.setattr(digits, "find_spec", lambda name: ModuleSpec(name, None, origin=None))
    data = digits.load(tmp_path)
    assert data.train_inputs.shape == (1437, 64)
    assert data.val_inputs.shape == (360, 64)
    assert data.train_inputs.dtype == torch.float32
    assert data.train_targets.dtype == torch.int64

    pixels = torch.cat([data.train_inputs, data.val_inputs]).double() * digits.STD + digits.MEAN
    ours = np.column_stack([pixels.round().numpy(), torch.cat([data.train_targets, data.val_targets])])
    theirs = np.column_stack(load_digits(return_X_y=True))
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_split_is_the_same_for_ever(tmp_path: Path) -> None:
    data = digits.load(tmp_path)
    pixels = (data.train_inputs.double() * digits.STD + digits.MEAN).round().to(torch.uint8)
    split = pixels.numpy().tobytes() + data.train_targets.to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(split).hexdigest()[:16] == "7f6a6b31ddd05904"


def test_digits_are_standardised(tmp_path: Path) -> None:
    inputs = digits.load(tmp_path).train_inputs
    assert abs(inputs.mean().item()) < 0.01
    assert abs(inputs.std().item() - 1) < 0.01


# Models


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_perceptron_and_logistic_regression_are_matrix_products() -> None:
    x = torch.randn(5, 784)
    logreg = models.logreg(784, 10)
    w, b = logreg.parameters()
    torch.testing.assert_close(logreg(x), x @ w.T + b)

    mlp = models.mlp(784, 1000, 1000, 10)
    w1, b1, w2, b2, w3, b3 = mlp.parameters()
    hidden = (x @ w1.T + b1).clamp(min=0)
    hidden = (hidden @ w2.T + b2).clamp(min=0)
    torch.testing.assert_close(mlp(x), hidden @ w3.T + b3)
    assert parameters(mlp) == (784 + 1) * 1000 + (1000 + 1) * 1000 + (1000 + 1) * 10 == 1_796_010


def test_vgg16_has_the_published_number_of_parameters() -> None:
    before = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512)
    after = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    convolutions = sum(9 * a * b + b for a, b in zip(before, after, strict=True))
    batch_norms = sum(2 * b for b in after)
    linear = 2 * (512 * 512 + 512) + 512 * 10 + 10
    assert convolutions + batch_norms + linear == 15_253_578
    assert parameters(models.vgg16(10)) == 15_253_578


def test_vgg16_features_compute_what_torchvisions_do() -> None:
    torch.manual_seed(0)
    model = models.vgg16(10).eval()
    theirs = make_layers(cfgs["D"], batch_norm=True).eval()
    ours = model[: len(theirs)]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))
    kinds = [type(layer) for layer in model[len(theirs) :]]
    hidden = [nn.Dropout, nn.Linear, nn.ReLU]
    assert kinds == [nn.Flatten, *hidden, *hidden, nn.Linear]


def test_vgg16_convolutions_start_from_he_fan_out() -> None:
    torch.manual_seed(0)
    for layer in models.vgg16(10).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            assert not layer.bias.any()
            std = math.sqrt(2 / (9 * layer.out_channels))
            relative_error = 1 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(std, rel=5 * relative_error)


def test_vgg16_takes_larger_pictures() -> None:
    assert models.vgg16(7, size=70).eval()(torch.zeros(1, 3, 70, 70)).shape == (1, 7)


# Augmentation


def as_torchvision(picture: Tensor) -> Tensor:
    """What torchvision's ToTensor and Normalize make of one uint8 picture."""
    normalised: Tensor = TF.normalize(picture.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return normalised


def candidates(picture: Tensor) -> dict[bytes, int]:
    """The 162 results that torchvision's flip and crop with padding 4 can have, as bytes, numbered."""
    height, width = picture.shape[1:]
    padded = TF.pad(picture, [4])
    crops = [TF.crop(padded, top, left, height, width) for top in range(9) for left in range(9)]
    results = crops + [TF.hflip(crop) for crop in crops]
    return {result.contiguous().numpy().tobytes(): i for i, result in enumerate(results)}


def pixels(inputs: Tensor) -> Tensor:
    """Back from normalised inputs to uint8."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cifar.MEAN, cifar.STD))
    return ((inputs * std + mean) * 255).round().to(torch.uint8)


@pytest.fixture
def batch() -> Tensor:
    return torch.randint(256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_evaluation_normalises_as_torchvision(batch: Tensor) -> None:
    expected = torch.stack([as_torchvision(picture) for picture in batch])
    torch.testing.assert_close(cifar.prepare(batch, None), expected)


def test_every_augmented_picture_is_one_that_torchvision_can_make_of_it(batch: Tensor) -> None:
    batch = batch[:, :, :, :28]  # not square: rows and columns cannot be mistaken for one another
    augmented = cifar.prepare(batch, torch.Generator().manual_seed(0))
    for picture, result in zip(batch, augmented, strict=True):
        assert pixels(result).numpy().tobytes() in candidates(picture)
    black = as_torchvision(torch.zeros(3, 1, 1, dtype=torch.uint8))
    padded = cifar.prepare(
        torch.full((64, 3, 32, 32), 255, dtype=torch.uint8), torch.Generator().manual_seed(0)
    )
    assert torch.isclose(padded, black).all(dim=1).any()  # the padding is black before normalisation


def test_augmentations_are_equally_likely(batch: Tensor) -> None:
    picture = batch[0]
    number = candidates(picture)
    assert len(number) == 162
    many = picture.expand(162 * 40, -1, -1, -1)
    results = pixels(cifar.prepare(many, torch.Generator().manual_seed(0)))
    counts = np.bincount([number[result.numpy().tobytes()] for result in results], minlength=162)
    assert counts.all()
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_augmentation_follows_the_generator_and_moves_on_with_it(batch: Tensor) -> None:
    random = torch.Generator().manual_seed(3)
    first, second = cifar.prepare(batch, random), cifar.prepare(batch, random)
    assert not torch.equal(first, second)
    torch.testing.assert_close(cifar.prepare(batch, torch.Generator().manual_seed(3)), first)


def test_prepare_serves_training_after_it_was_first_used_in_inference_mode(batch: Tensor) -> None:
    cifar._normalisation.cache_clear()
    with torch.inference_mode():
        cifar.prepare(batch, None)
    layer = nn.Conv2d(3, 1, 3)
    layer(cifar.prepare(batch, torch.Generator())).sum().backward()
    assert layer.weight.grad is not None


def test_workload_defaults_to_the_mean_cross_entropy() -> None:
    workload = Workload("w", digits.load, lambda: nn.Linear(1, 1))
    logits = torch.tensor([[1.0, 2.0], [0.5, -0.5]])
    expected = (math.log(1 + math.exp(1)) + math.log(1 + math.exp(-1))) / 2
    assert workload.loss(logits, torch.tensor([0, 0])).item() == pytest.approx(expected)
