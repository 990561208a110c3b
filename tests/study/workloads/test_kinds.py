"""Workloads of many kinds: what their data say, what their models compute, and that they tell α apart."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import make_friedman1
from torch import nn

from study.config.catalogue import CATALOGUE
from study.config.loader import Trial
from study.training import stacked_model
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training, evaluate
from study.workloads import characters, digits, plateaus, ratings, regression
from study.workloads.base import Data, Workload
from study.workloads.registry import resolve

CPU = torch.device("cpu")
# name: shape of an input, of a target, training rows, validation rows, parameters
KINDS = {
    "digits-noisy-mlp": ((64,), (), 1437, 360, 8970),
    "digits-autoencoder": ((64,), (64,), 1437, 360, 4744),
    "digits-conv": ((64,), (), 1437, 360, 1946),
    "friedman-mlp": ((10,), (1,), 3200, 800, 1441),
    "friedman-deep": ((10,), (1,), 3200, 800, 1111),
    "collinear-linear": ((32,), (1,), 3200, 800, 33),
    "parity-mlp": ((20,), (), 6400, 1600, 1474),
    "adding-gru": ((10, 2), (1,), 6400, 1600, 977),
    "ratings-factors": ((2,), (), 12_800, 3200, 4500),
    "chars-transformer": ((16,), (16,), 12_800, 2560, 11_265),
}


@pytest.fixture(autouse=True)
def one_thread():
    """As workers train; small products are not shared among threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def kind(name: str) -> tuple[Workload, Data]:
    workload = resolve(name, {})
    return workload, workload.load(None)


def test_every_workload_is_listed():
    text = (Path(__file__).parents[3] / "docs" / "workloads.md").read_text(encoding="utf-8")
    assert [name for name in CATALOGUE if f"`{name}`" not in text] == []


@pytest.mark.parametrize("name", KINDS)
def test_the_table_of_workloads_has_the_number_of_parameters(name):
    page = (Path(__file__).parents[3] / "docs/workloads.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    assert row.split("|")[3].strip() == f"{KINDS[name][-1]:,}"


@pytest.mark.parametrize("name", KINDS)
def test_shapes_are_what_the_catalogue_and_the_docstrings_say(name):
    inputs, targets, train, val, parameters = KINDS[name]
    workload, data = kind(name)
    assert workload.name == name
    assert CATALOGUE[name].train_size == train
    assert data.train_inputs.shape == (train, *inputs)
    assert data.train_targets.shape == (train, *targets)
    assert data.val_inputs.shape == (val, *inputs)
    assert data.val_targets.shape == (val, *targets)
    model = workload.build()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    loss = workload.loss(model(data.train_inputs[:8]), data.train_targets[:8])
    assert loss.shape == ()
    assert torch.isfinite(loss)


# Of the training inputs and targets, then of the validation data.
SUMS = {
    "digits-noisy-mlp": (39.2424, -21.5086, 40.3951, -3.7756),
    "digits-autoencoder": (39.2424, 39.2424, 40.3951, 40.3951),
    "friedman-mlp": (-276.5452, -37.1931, 82.0136, -11.9415),
    "collinear-linear": (-165.2573, -17.4528, -14.3986, 3.3348),
    "parity-mlp": (1.6501, 4.997, -135.4079, 2.5828),
    "adding-gru": (66.1198, 21.9569, 4.715, -3.5128),
    "ratings-factors": (20986.8251, -85.352, 2514.233, -28.6604),
    "chars-transformer": (-77.1384, 413.8498, -925.3456, -344.0342),
}


@pytest.mark.parametrize("name", SUMS)
def test_data_are_the_same_for_ever(name):
    """As weighted sums: the last digits are the machine's own."""
    sums = [
        float(values.double().flatten() @ torch.arange(values.numel(), dtype=torch.float64).cos())
        for values in vars(kind(name)[1]).values()
    ]
    assert sums == pytest.approx(SUMS[name], abs=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_bits_every_time(name):
    workload, data = kind(name)
    trial = Trial(name, "adam-sgd", 0.01, 1e-4, 3, iterations=6, batch_size=32)
    (one,), (other,) = (list(Training(trial, workload, data, CPU).epochs()) for _ in range(2))
    assert one.train_loss.tobytes() == other.train_loss.tobytes()
    assert one.val_loss == other.val_loss


# What no model can beat, and what a model says that knows only the mean or how common the classes are.
BOUNDS = {
    "digits-noisy-mlp": (0.0, math.log(10)),
    "digits-autoencoder": (0.0, 0.8),
    "digits-conv": (0.0, math.log(10)),
    "friedman-mlp": (1 / regression.STD**2, 1.0),
    "friedman-deep": (1 / regression.STD**2, 1.0),
    "collinear-linear": (regression.NOISE**2, 1.0),
    "parity-mlp": (0.3251, math.log(2)),
    "adding-gru": (plateaus.NOISE**2, 1 / 6 + plateaus.NOISE**2),
    "ratings-factors": (ratings.NOISE**2, 1.6),
    "chars-transformer": (0.48, 2.88),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_good_learning_rate_learns_it_and_one_a_hundred_times_smaller_does_not(name):
    """In a budget of 400 iterations with AdamW along a cosine, so that a loss tells learning rates apart."""
    workload, data = kind(name)
    least, ignorant = BOUNDS[name]
    alpha0 = 0.03 if name in ("collinear-linear", "adding-gru", "ratings-factors") else 0.01
    losses = []
    for alpha in (alpha0, alpha0 / 100):
        trial = Trial(
            name,
            "torch.optim.AdamW",
            alpha,
            None,
            0,
            iterations=400,
            batch_size=64,
            schedule={"name": "cosine"},
        )
        (*_, last) = Training(trial, workload, data, CPU).epochs()
        losses.append(last.val_loss)
        assert math.isnan(last.val_accuracy) != data.has_classes
    good, slow = losses
    assert 0.85 * least < good < (least + ignorant) / 2
    assert slow > 1.5 * good


@pytest.mark.parametrize("name", KINDS)
def test_trials_pack(name):
    workload, data = kind(name)
    reason = stacked_model.unstackable_reason(workload)
    assert reason is None
    trials = [
        Trial(name, "adam-sgd", alpha0, 1e-4, seed, iterations=12, batch_size=32)
        for alpha0, seed in ((0.01, 0), (0.001, 0), (0.003, 1))
    ]
    (records,) = PackTraining(trials, workload, data, CPU).epochs()
    for trial, packed in records:
        (alone,) = Training(trial, workload, data, CPU).epochs()
        np.testing.assert_allclose(packed.train_loss, alone.train_loss, rtol=2e-4)
        np.testing.assert_allclose(packed.alpha, alone.alpha, rtol=1e-3)
        assert packed.val_loss == pytest.approx(alone.val_loss, rel=2e-4)
        assert packed.val_accuracy == pytest.approx(alone.val_accuracy, abs=0.01, nan_ok=True)


def test_a_regression_has_no_accuracy():
    data = Data(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(3, 1), torch.ones(3, 1))
    loss, accuracy = evaluate(
        Workload("w", lambda _: data, nn.Identity, nn.functional.mse_loss), data, nn.Identity()
    )
    assert loss == 1
    assert math.isnan(accuracy)


# Digits


def test_three_in_ten_training_labels_are_wrong_and_no_validation_label():
    right, noisy = digits.load(None), digits.load_noisy(None)
    wrong = right.train_targets != noisy.train_targets
    assert wrong.double().mean().item() == pytest.approx(0.3, abs=3 * math.sqrt(0.3 * 0.7 / 1437))
    assert torch.equal(right.val_targets, noisy.val_targets)
    shifts = (noisy.train_targets - right.train_targets)[wrong] % 10
    assert set(shifts.tolist()) == set(range(1, 10))


def test_the_autoencoder_is_to_return_its_input_through_eight_numbers():
    data = digits.load_pictures(None)
    assert torch.equal(data.train_inputs, data.train_targets)
    assert torch.equal(data.val_inputs, digits.load(None).val_inputs)
    widths = [layer.out_features for layer in digits.autoencoder().build() if isinstance(layer, nn.Linear)]
    assert min(widths) == widths[1] == 8


def test_the_convolutions_are_validated_with_running_statistics():
    workload, data = kind("digits-conv")
    model = workload.build()
    evaluate(workload, data, model)
    alone = model(data.val_inputs[:1])
    torch.testing.assert_close(model(data.val_inputs[:5])[:1], alone)


# Tables


def test_the_table_is_friedmans():
    """As scikit-learn makes it from the same stream: first all columns, then the noise."""
    x, y = make_friedman1(4000, noise=1.0, random_state=2019)
    data = regression.load_friedman(None)
    inputs = torch.cat([data.train_inputs, data.val_inputs]).double().numpy()
    targets = torch.cat([data.train_targets, data.val_targets]).double().numpy()
    np.testing.assert_allclose(inputs, (x - 0.5) * math.sqrt(12), atol=1e-6)
    np.testing.assert_allclose(targets[:, 0], (y - regression.MEAN) / regression.STD, atol=1e-5)
    assert abs(targets.mean()) < 0.02
    assert targets.std() == pytest.approx(1, abs=0.02)


def test_the_collinear_table_is_badly_conditioned_also_after_scaling_its_columns():
    data = regression.load_collinear(None)
    x, y = data.train_inputs.double().numpy(), data.train_targets.double().numpy()
    assert np.linalg.cond(np.cov(x.T)) == pytest.approx(400, rel=0.25)
    assert np.linalg.cond(np.corrcoef(x.T)) > 200
    solution, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = data.val_targets.double().numpy() - data.val_inputs.double().numpy() @ solution
    assert np.mean(residual**2) == pytest.approx(regression.NOISE**2, rel=0.15)
    assert y.var() == pytest.approx(1.01, rel=0.1)


# Plateaus


def test_parity_is_of_three_bits_and_one_class_in_ten_is_flipped():
    data = plateaus.load_parity(None)
    bits, classes = (
        torch.cat([data.train_inputs, data.val_inputs]),
        torch.cat([data.train_targets, data.val_targets]),
    )
    odd = bits[:, :3].prod(1) > 0  # of three −1 or 1, the product is 1 where the number of ones is odd
    share = (odd.long() != classes).double().mean().item()
    assert share == pytest.approx(0.1, abs=3 * math.sqrt(0.09 / 8000))
    signs = 2 * classes - 1
    for column in range(20):
        assert abs((bits[:, column] * signs).double().mean().item()) < 4 / math.sqrt(8000)
        assert column == 0 or abs((bits[:, 0] * bits[:, column] * signs).double().mean()) < 4 / math.sqrt(
            8000
        )


def test_sums_are_of_the_two_marked_numbers():
    data = plateaus.load_adding(None)
    numbers, marks = data.train_inputs.unbind(-1)
    assert set(marks.flatten().tolist()) == {0.0, 1.0}
    assert (marks[:, :5].sum(1) == 1).all()
    assert (marks[:, 5:].sum(1) == 1).all()
    noise = data.train_targets[:, 0] - (numbers * marks).sum(1)
    assert noise.std().item() == pytest.approx(0.1, rel=0.05)
    assert data.val_targets.var().item() == pytest.approx(1 / 6 + 0.01, rel=0.1)


# Ratings


def test_a_batch_of_ratings_uses_few_rows_and_the_model_multiplies_factors():
    workload, data = kind("ratings-factors")
    model = workload.build()
    user, item = data.train_inputs[7].tolist()
    u, v = model.users.weight[user], model.items.weight[item]
    expected = sum(u[1 + k] * v[1 + k] for k in range(8)) + u[0] + v[0]
    torch.testing.assert_close(model(data.train_inputs[7:8])[0], expected)
    workload.loss(model(data.train_inputs[:64]), data.train_targets[:64]).backward()
    moved = [int(table.weight.grad.any(dim=1).sum()) for table in (model.users, model.items)]
    assert moved == [len(data.train_inputs[:64, column].unique()) for column in (0, 1)]
    assert sum(moved) < 0.3 * (ratings.USERS + ratings.ITEMS)


def test_ratings_follow_four_tastes():
    """Singular values of the users × items matrix of means: those of four tastes stand out from the noise."""
    data = ratings.load(None)
    table, counts = np.zeros((2, ratings.USERS, ratings.ITEMS))
    pairs = torch.cat([data.train_inputs, data.val_inputs]).numpy()
    values = torch.cat([data.train_targets, data.val_targets]).double().numpy()
    np.add.at(table, (pairs[:, 0], pairs[:, 1]), values)
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    known = table / np.maximum(counts, 1)
    rows, columns = (known.sum(axis, keepdims=True) / counts.sum(axis, keepdims=True) for axis in (1, 0))
    rest = np.where(counts > 0, known - rows - columns + values.mean(), 0)
    found = np.linalg.svd(rest, compute_uv=False)
    assert found[3] > 1.15 * found[4]
    assert found[4] < 1.1 * found[5]


# Characters


def test_short_windows_are_the_same_text():
    short, whole = characters.load_short(None), characters.load(None)
    for name in vars(whole):
        assert torch.equal(getattr(short, name).flatten(), getattr(whole, name).flatten())


def test_the_block_is_torchs_own():
    model = characters.transformer().build().double()
    block = nn.TransformerEncoderLayer(
        32, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm, up, _, down = model.perceptron
    theirs = {
        "self_attn.in_proj": model.attention,
        "self_attn.out_proj": model.mix,
        "norm1": model.before_attention,
        "norm2": norm,
        "linear1": up,
        "linear2": down,
    }
    joint = {"self_attn.in_proj": "_"}
    block.load_state_dict(
        {
            f"{name}{joint.get(name, '.')}{part}": getattr(layer, part).detach()
            for name, layer in theirs.items()
            for part in ("weight", "bias")
        }
    )
    codes = characters.load_short(None).val_inputs[:4]
    mask = nn.Transformer.generate_square_subsequent_mask(16, dtype=torch.float64)
    states = block(model.embedding(codes) + model.places, src_mask=mask, is_causal=True)
    torch.testing.assert_close(model(codes), model.output(states))


def test_the_transformer_sees_nothing_of_what_comes():
    model = characters.transformer().build()
    codes = characters.load_short(None).val_inputs[:3].clone()
    before = model(codes)
    codes[:, 9:] = 0
    after = model(codes)
    torch.testing.assert_close(before[:, :9], after[:, :9])
    assert not torch.allclose(before[:, 9:], after[:, 9:])
