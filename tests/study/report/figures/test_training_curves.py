"""The figures show what the records say, look the same every time, and cope with what studies come to."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from study.analysis.tables import trial_table
from study.config.loader import OPTIMIZERS, Study, Trial
from study.config.optimizer_name import RULES
from study.report.figures import medium, registry, style, training_curves
from study.report.figures.base import Evidence
from study.report.figures.scales import log_ticks
from study.storage.records import EpochRecord, TrialRecord

ITERATIONS = 30  # per epoch


def make_study(**changes) -> Study:
    settings = {
        "name": "synthetic",
        "workloads": ["digits-logreg", "digits-mlp"],
        "optimizers": list(OPTIMIZERS),
        "alpha0": [0.001],
        "beta": {"sgd": 1e-3, "sgdn": 1e-4, "adam": 1e-7, "adamw": 1e-7, "muon": 1e-7},
        "seeds": [0, 1, 2],
        "epochs": 20,
        "threshold": 0.3,
    }
    return Study.model_validate(settings | changes)


def synthetic(trial: Trial, epochs: int | None = None) -> TrialRecord:
    """Losses that fall like an exponential towards a floor with minibatch noise, and an α that drifts."""
    random = np.random.default_rng(int(trial.key, 16))
    total = (trial.epochs or 1) * ITERATIONS
    t = np.arange(1, total + 1) / total
    op = {"sgd": 1.0, "sgdn": 2.5, "adam": 4.0, "adamw": 4.0, "muon": 4.0}[trial.op]
    lop = {None: 1.0, "sgd": 1.3, "sgdn": 1.6, "adam": 1.9, "adagrad": 2.2, "lion": 2.5}[trial.lop]
    rate = op * lop * (trial.alpha0 / 0.001) ** 0.5
    floor = 0.05 if "mlp" in trial.workload else 0.25
    loss = floor + (2.3 - floor) * np.exp(-3 * rate * t) * (1 + 0.15 * random.standard_normal(total))
    loss = np.maximum(loss + 0.01 * random.standard_normal(total), 1e-3)
    drift = 0 if trial.lop is None else (lop - 0.9) * (1 - np.exp(-4 * t)) * (1 - 0.5 * t)
    alpha = trial.alpha0 * (1 + drift * (1 + 0.05 * random.standard_normal()))
    done = [
        EpochRecord(
            epoch=number + 1,
            first_iteration=number * ITERATIONS + 1,
            alpha=np.broadcast_to(alpha, t.shape)[part].astype(np.float32),
            hypergradient=np.zeros(ITERATIONS, dtype=np.float32),
            train_loss=loss[part].astype(np.float32),
            val_loss=float(loss[part].mean() * 1.05 + 0.02 + 0.1 * floor * t[part][0]),
            val_accuracy=float(1 - 0.3 * loss[part].mean() / 2.3),
            seconds=0.4 * lop,
        )
        for number in range(trial.epochs or 1)
        for part in [slice(number * ITERATIONS, (number + 1) * ITERATIONS)]
    ][:epochs]
    status = "finished" if epochs is None else "running"
    return TrialRecord(trial, status=status, epochs=tuple(done), machine={"torch": "2.11.0", "device": "cpu"})


def diverging(trial: Trial, after: int) -> TrialRecord:
    epochs = list(synthetic(trial).epochs[:after])
    last = epochs[-1]
    loss = np.array([5.0, 1e9, np.nan], dtype=np.float32)
    alpha = np.array([1.0, 1e12, 1e30], dtype=np.float32)
    epochs[-1] = EpochRecord(last.epoch, last.first_iteration, alpha, alpha, loss, np.nan, 0.1, 0.4)
    return TrialRecord(trial, status="diverged", epochs=tuple(epochs))


def constant(trial: Trial, alphas: list[float], losses: list[float], status="finished") -> TrialRecord:
    """Epochs of two iterations with the given α and loss."""
    epochs = tuple(
        EpochRecord(i + 1, 2 * i + 1, np.full(2, a), np.zeros(2), np.full(2, x), x, 0.5, 1.0)
        for i, (a, x) in enumerate(zip(alphas, losses, strict=True))
    )
    return TrialRecord(trial, status=status, epochs=epochs)


@pytest.fixture(scope="module")
def grid():
    study = make_study()
    return study, [synthetic(trial) for trial in study.trials()]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts() if text.get_text().strip()]


def test_every_optimizer_has_its_own_look():
    looks = [style.look(name) for name in OPTIMIZERS]
    assert len({(style.color, style.linestyle) for style in looks}) == len(OPTIMIZERS)
    by_lop = {name: style.look(name).linestyle for name in OPTIMIZERS}
    assert by_lop["sgd-sgdn"] == by_lop["sgdn-sgdn"] == by_lop["adam-adam"] == "solid"
    assert style.look("adam").color == style.look("adam-sgd").color != style.look("sgd").color


TWELVE = tuple(name for name in OPTIMIZERS if not name.endswith(("-adagrad", "-lion")))
RIVALS = (
    *("torch.optim.AdamW", "torch.optim.NAdam", "torch.optim.RAdam", "torch.optim.RMSprop"),
    *("prodigyopt.Prodigy", "schedulefree.AdamWScheduleFree", "schedulefree.SGDScheduleFree"),
)


@pytest.mark.parametrize("rule", RULES[1:])
def test_every_rule_has_a_shade_of_its_ops_colour(rule):
    for name in OPTIMIZERS:
        if "-" in name:
            look, other = style.look(f"{name} {rule}"), style.look(name)
            assert look.color != other.color
            assert (look.linestyle, look.marker) == (other.linestyle, other.marker)
            assert style.family(f"{name} {rule}") == style.family(name)
    learned = [name for name in OPTIMIZERS if "-" in name]
    shades = {style.look(f"{name} {other}".removesuffix(" additive")) for name in learned for other in RULES}
    assert len(shades) == len(learned) * len(RULES)


def test_other_optimizers_have_looks_of_their_own_that_depend_on_the_name_alone():
    looks = [style.look(name) for name in RIVALS]
    assert len({(look.color, look.linestyle) for look in looks}) == len(RIVALS)
    assert not {look.color for look in looks} & set(style.COLOURS.values())
    # Pinned: a study of last year has the same colours.
    assert style.look("torch.optim.AdamW").color == "#CC79A7"
    assert style.look("prodigyopt.Prodigy").color == "#000000"
    further = style.look("adam-adagrad")
    assert further.color == style.look("adam").color
    assert further.linestyle not in {style.look(name).linestyle for name in TWELVE}


def test_the_colours_are_apart_for_colour_blind_readers():
    """Differences in CIELAB of the colours as a deuteranope sees them (Machado et al. 2009)."""
    machado = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )

    def lab(color: str) -> np.ndarray:
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(machado @ linear, 0, 1)
        matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        x, y, z = np.cbrt(np.array(matrix) @ seen / [0.9505, 1.0, 1.089] + 1e-9)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    colors = [*style.COLOURS.values(), *{style.look(name).color for name in RIVALS}]
    for i, one in enumerate(colors):
        for other in colors[:i]:
            assert np.linalg.norm(lab(one) - lab(other)) > 10, (one, other)


def test_legends_shorten_dotted_paths_unless_two_would_be_one():
    assert style.labels(["adam", "torch.optim.AdamW"]) == {"adam": "Adam", "torch.optim.AdamW": "AdamW"}
    ours = ["adamw", "torch.optim.AdamW"]
    assert style.labels(ours) == {name: name for name in ours}
    twice = ["torch.optim.AdamW", "mine.AdamW"]
    assert style.labels(twice) == {name: name for name in twice}
    order = style.in_order(["x.B", "adam-lion", "adam-sgd", "x.A", "sgd"])
    assert order == ["sgd", "adam-sgd", "adam-lion", "x.B", "x.A"]


def test_figure1_draws_the_median_over_seeds_and_the_range_from_the_first_iteration():
    """Two iterations an epoch; the training loss is a mean over one, as 1/20 of six iterations is none."""
    study = make_study(workloads=["digits-logreg"], optimizers=["adam-adam"], epochs=3)
    losses = [[3.0, 2.0, 1.0], [6.0, 2.5, 0.5], [4.0, 9.0, 0.9]]
    records = [
        constant(trial, [1e-3, 2e-3, k * 1e-3], loss)
        for k, (trial, loss) in enumerate(zip(study.trials(), losses, strict=True))
    ]
    figure = training_curves.figure1(records[::-1], study)
    alpha, train, validation = (axes.lines[0].get_xydata() for axes in figure.axes)
    epochs = [0.5, 1, 1.5, 2, 2.5, 3]
    np.testing.assert_allclose(alpha, list(zip(epochs, [1e-3, 1e-3, 2e-3, 2e-3, 1e-3, 1e-3], strict=True)))
    np.testing.assert_allclose(train, list(zip(epochs, [4.0, 4.0, 2.5, 2.5, 0.9, 0.9], strict=True)))
    np.testing.assert_allclose(validation, [[1, 4.0], [2, 2.5], [3, 0.9]])
    band = figure.axes[2].collections[0].get_paths()[0].vertices
    for epoch, (low, high) in {1: (3.0, 6.0), 2: (2.0, 9.0), 3: (0.5, 1.0)}.items():
        values = band[band[:, 0] == epoch, 1]
        np.testing.assert_allclose([values.min(), values.max()], [low, high])
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "learning rate α",
        "training loss",
        "validation loss",
    ]
    assert figure.axes[2].get_xlabel() == "epoch"


def test_a_training_loss_is_a_mean_over_the_last_epoch_of_a_long_trial():
    """At the end of an epoch it is the stored mean of the epoch; at the first iteration it is its loss."""
    study = make_study(workloads=["digits-logreg"], optimizers=["adam"], seeds=[0], epochs=25)
    record = synthetic(study.trials()[0])
    (line,) = training_curves.figure1([record], study).axes[1].lines
    drawn = {round(x * ITERATIONS): y for x, y in line.get_xydata()}
    assert drawn[1] == pytest.approx(float(record.epochs[0].train_loss[0]))
    whole = [epoch for epoch in record.epochs if epoch.last_iteration in drawn]
    assert len(whole) > 5
    for epoch in whole:
        assert drawn[epoch.last_iteration] == pytest.approx(float(np.mean(epoch.train_loss)), rel=1e-5)


def test_trials_of_an_iteration_budget_are_drawn_over_iterations():
    study = make_study(workloads=["digits-logreg"], optimizers=["adam"], seeds=[0], epochs=None, iterations=4)
    figure = training_curves.figure1([constant(study.trials()[0], [1e-3] * 2, [2.0, 1.0])], study)
    assert figure.axes[2].get_xlabel() == "iteration"
    assert figure.axes[0].lines[0].get_xdata().tolist() == [1, 2, 3, 4]


def test_six_optimizers_of_one_workload_have_a_column_for_each_op():
    nine = [
        f"{op}{lop}" for op, new in (("sgd", "sgdn"), ("adam", "adam")) for lop in ("", "-sgd", f"-{new}")
    ]
    study = make_study(workloads=["digits-logreg"], optimizers=nine, epochs=2)
    figure = training_curves.figure1([synthetic(trial) for trial in study.trials()], study)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["SGD", "Adam"]
    for column, op in enumerate(("sgd", "adam")):
        for axes in figure.axes[column::2]:
            assert {line.get_color() for line in axes.lines} == {style.COLOURS[op]}
            assert len(axes.lines) == 3
    assert legend_of(figure) == ["SGD", "SGD-HD", "SGD–SGDN", "Adam", "Adam-HD", "Adam–Adam"]


def test_figure1_has_a_column_per_workload_and_more_than_three_continue_below():
    workloads = [{"use": "digits-mlp", "width": width} for width in (8, 16, 32, 64)]
    study = make_study(workloads=workloads, optimizers=["sgd", "adam"], epochs=2, seeds=[0])
    records = [synthetic(trial) for trial in study.trials()]
    figure = training_curves.figure1(records, study)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"digits-mlp (width={width})" for width in (8, 16, 32, 64)]
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 12
    first, second = training_curves.draw(Evidence(study, records, trial_table(records, study)))
    assert (first.suffix, second.suffix) == ("", "-2")
    assert second.title == "Learning rate and losses, digits-mlp (width=64)"
    assert len(second.figure.axes) == 3


def test_many_optimizers_are_the_best_five_in_colour_and_the_rest_in_grey():
    names = ("sgd", "adam", "adamw", "muon")
    many = [f"{op}{lop}" for op in names for lop in ("", "-sgd", "-adam")]
    study = make_study(workloads=["digits-logreg"], optimizers=many, epochs=2, seeds=[0], beta=1e-3)
    losses = {name: 1.0 + place for place, name in enumerate(many)}
    records = [constant(trial, [1e-3] * 2, [losses[trial.label]] * 2) for trial in study.trials()]
    found = {
        module.STEM: drawn
        for module, drawn in registry.figures(Evidence(study, records, trial_table(records, study)))
    }
    drawn = found["figure1"]
    assert "In colour are the 5 optimizers" in drawn.caption
    figure = drawn.figure
    assert legend_of(figure) == ["SGD", "SGD-HD", "SGD–Adam", "Adam", "Adam-HD", "7 others"]
    lines = {float(line.get_ydata()[0]): line for line in figure.axes[2].lines}
    grey = {value for value, line in lines.items() if line.get_color() == style.GREY}
    assert grey == {1.0 + place for place in range(5, 12)}
    assert max(lines[value].get_zorder() for value in grey) < lines[1.0].get_zorder()
    assert not medium.is_highlighting()


@pytest.mark.parametrize(("alphas", "shown"), [([0.1, 0.001, 0.01], 0.001), ([0.03, 0.01, 0.1], 0.03)])
def test_figure1_shows_one_alpha0_and_says_which(alphas, shown):
    study = make_study(workloads=["digits-logreg"], optimizers=["adam"], alpha0=alphas, epochs=2)
    records = [constant(trial, [trial.alpha0] * 2, [2.0, 1.0]) for trial in study.trials()]
    figure = training_curves.figure1(records, study)
    (line,) = figure.axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), shown)
    assert f"α₀ = {shown:g}" in figure.get_suptitle()


def test_figure1_takes_the_alpha0_asked_for_or_says_which_there_are():
    study = make_study(workloads=["digits-logreg"], optimizers=["adam"], alpha0=[0.1, 0.001], epochs=2)
    records = [constant(trial, [trial.alpha0] * 2, [2.0, 1.0]) for trial in study.trials()]
    (line,) = training_curves.figure1(records, study, alpha0=0.1).axes[0].lines
    np.testing.assert_allclose(line.get_ydata(), 0.1)
    with pytest.raises(ValueError, match=r"no trial with α₀ = 0\.5; there are 0\.001, 0\.1"):
        training_curves.figure1(records, study, alpha0=0.5)


def test_figure1_shows_the_first_beta_and_says_so():
    study = make_study(
        workloads=["digits-logreg"], optimizers=["adam-sgd", "adam-adam"], beta=[1e-3, 1e-7], epochs=1
    )
    records = [constant(trial, [trial.beta], [1.0]) for trial in study.trials()]
    figure = training_curves.figure1(records, study)
    assert {float(line.get_ydata()[0]) for line in figure.axes[0].lines} == {1e-3}
    assert "β: Adam-HD 0.001, Adam–Adam 0.001" in figure.get_suptitle()


def test_a_line_ends_in_a_cross_when_most_seeds_diverged():
    study = make_study(workloads=["digits-logreg"], optimizers=["sgd", "sgd-sgd"], epochs=4)
    trials = study.trials()
    records = [constant(trial, [1e-3] * 4, [4.0, 3.0, 2.0, 1.0]) for trial in trials[:3]]
    records += [
        constant(trials[3], [1e-3, 2e-3, 3e-3, 4e-3], [4.0, 3.0, 2.0, 1.5]),
        constant(trials[4], [1e-3, 2e-3], [5.0, np.inf], "diverged"),
        constant(trials[5], [1e-3, 2e-3, 1e30], [6.0, 7.0, np.nan], "diverged"),
    ]
    figure = training_curves.figure1(records, study)
    learned = figure.axes[1].lines[1]
    # ∞ counts as above all others: epoch 2 has 3, ∞, 7, epoch 3 has 2, ∞, ∞.
    np.testing.assert_array_equal(learned.get_ydata(), [5, 5, 7, 7, *[np.nan] * 4])
    top = figure.axes[1].get_ylim()[1]  # 7 is above the axis, which fits those that did not diverge
    assert 4 < top < 7
    crosses = [line for line in figure.axes[1].lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(2, top)]
    # The diverged trial's α does not stretch the axis.
    assert figure.axes[0].get_ylim()[1] < 0.01


def test_scales_follow_the_range():
    study = make_study(workloads=["digits-logreg"], optimizers=["sgd-sgd"], seeds=[0], epochs=3)
    (trial,) = study.trials()

    def scales(alphas, losses):
        figure = training_curves.figure1([constant(trial, alphas, losses)], study)
        return [axes.get_yscale() for axes in figure.axes[:2]]

    assert scales([1e-3, 2e-3, 5e-2], [2.0, 1.0, 0.1]) == ["log", "log"]
    assert scales([1e-3, 2e-3, 5e-3], [2.0, 1.0, 0.8]) == ["linear", "linear"]
    assert scales([1e-3, -1e-4, 2e-3], [2.0, 1.0, 0.1]) == ["linear", "log"]
    assert scales([1e-3, -1e-4, 0.5], [2.0, 1.0, 0.9]) == ["symlog", "linear"]


def test_the_axis_of_a_loss_fits_what_comes_after_the_first_tenth():
    """The steep fall of the first iterations would hide all that follows."""
    study = make_study(workloads=["digits-logreg"], optimizers=["sgd"], seeds=[0], epochs=20)
    (trial,) = study.trials()
    losses = [100.0, *np.linspace(1.2, 1.0, 19)]
    figure = training_curves.figure1([constant(trial, [1e-3] * 20, losses)], study)
    low, high = figure.axes[1].get_ylim()
    assert 0.9 < low < 1.0
    assert 1.2 < high < 1.3
    assert figure.axes[2].get_ylim()[1] < 1.3


@pytest.mark.parametrize(
    ("low", "high", "labelled"),
    [
        (0.9, 1100, [1, 10, 100, 1000]),
        (8, 400, [10, 30, 100, 300]),
        (0.24, 2.4, [0.5, 1, 2]),
        (0.24, 0.36, [0.25, 0.3, 0.35]),
        (1e-9, 10, None),
    ],
)
def test_a_logarithmic_axis_has_two_to_seven_round_numbers_in_sight(low, high, labelled):
    ticks = log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    if labelled is not None:
        assert set(labelled) <= set(np.round(ticks, 12))


def test_a_figure_for_a_paper_is_as_wide_as_a_column_or_the_text_and_has_small_letters(tmp_path):
    study = make_study(workloads=["digits-logreg"], optimizers=["sgd", "adam"], seeds=[0], epochs=2)
    records = [synthetic(trial) for trial in study.trials()]
    evidence = Evidence(study, records, trial_table(records, study))
    widths = {}
    for file in registry.draw_for_paper(evidence, tmp_path):
        if file.suffix == ".pdf":
            box = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ", file.read_bytes())
            widths[file.stem] = float(box[1]) / 72
    assert widths["figure1"] == pytest.approx(3.25, abs=0.01)
    captions = (tmp_path / "captions.txt").read_text()
    assert captions.startswith("figure1.pdf: Learning rate and losses. ")
    assert "Shown: α₀ = 0.001." in captions
    with medium.for_paper():
        figure = training_curves.figure1(records, study)
    assert not any(text.get_visible() for text in figure.texts)  # no title
    figure.draw_without_rendering()
    sizes = {
        label.get_size() for axes in figure.axes for label in (axes.yaxis.label, *axes.get_yticklabels())
    }
    assert max(sizes) <= 8
    assert training_curves.figure1(records, study).get_size_inches()[0] > 4


def test_nothing_to_draw_is_said():
    study = make_study()
    with pytest.raises(ValueError, match="study synthetic: no trial has finished an epoch"):
        training_curves.figure1([TrialRecord(trial) for trial in study.trials()], study)


def test_saved_files_are_the_same_every_time(grid, tmp_path):
    study, records = grid
    first = style.save(training_curves.figure1(records, study), tmp_path / "a.b")
    second = style.save(training_curves.figure1(records[::-1], study), tmp_path / "c")
    assert [path.name for path in first] == ["a.b.png", "a.b.svg", "a.b.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert imread(first[0]).shape[1] > 600
    assert b"<text" not in first[1].read_bytes()  # letters are paths: no font needed
    fonts = set(re.findall(rb"/Subtype /(Type0|Type3|TrueType|Type1)\b", first[2].read_bytes()))
    assert fonts == {b"Type0"}  # text is text: TrueType, in Unicode


def test_marks_that_mathtext_would_trip_over_are_only_text(tmp_path):
    study = make_study(workloads=[{"use": "digits-mlp", "kind": "$\\frac$"}], optimizers=["adam"])
    figure = training_curves.figure1([synthetic(trial) for trial in study.trials()], study)
    style.save(figure, tmp_path / "f")
    assert figure.axes[0].get_title() == 'digits-mlp (kind="$\\\\frac$")'
