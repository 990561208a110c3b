"""The page holds what was measured, says what was not, stands alone, and believes no one's markup."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from study.analysis.untuned_claims import Question
from study.config.loader import Study, Trial
from study.report import builder
from study.report.figures import registry
from study.report.figures.base import Drawn
from study.storage.records import EpochRecord, TrialRecord

HOSTILE = "<script>alert('x')</script> & \"quotes\""
MACHINE = {"python": "3.11.7", "torch": "2.11.0+cu130", "device": "cpu, 1 threads"}


def make_study(**changes) -> Study:
    settings = {
        "name": "made-up",
        "description": "Does it help?",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam", "adam-sgd", "adam-adam"],
        "alpha0": [0.001],
        "beta": 1e-7,
        "seeds": [0, 1],
        "epochs": 2,
        "threshold": 0.5,
    }
    return Study.model_validate(settings | changes)


def trained(trial: Trial, final: float = 0.4, machine=MACHINE, status="finished") -> TrialRecord:
    """Two epochs of five iterations; from iteration 6 on the loss is ``final``."""
    epochs = tuple(
        EpochRecord(
            number,
            5 * number - 4,
            np.full(5, trial.alpha0, dtype=np.float32),
            np.zeros(5),
            np.full(5, loss),
            1.1 * loss,
            0.9,
            1.0,
        )
        for number, loss in ((1, 2.0), (2, final + trial.seed / 1000))
    )
    return TrialRecord(trial, status=status, epochs=epochs, machine=machine)


class Page(HTMLParser):
    """Text, tags and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.parts: dict[str, str] = {}
        """The text of what has an id, by the id."""
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("div", "section", "details", "main"):
            self._open.append((tag, dict(attrs).get("id")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if tag in ("div", "section", "details", "main"):
            assert self._open.pop()[0] == tag  # as many close as open, in order

    def handle_data(self, data):
        self.text += data
        for _, name in self._open:
            if name:
                self.parts[name] = self.parts.get(name, "") + data
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


class Links:
    """Web pages of trials, as a tracker knows them."""

    def __init__(self, runs: dict[str, str]) -> None:
        self.runs = runs

    def trial_link(self, key):
        return self.runs.get(key)

    def curve_link(self, key):
        return f"{self.runs[key]}/curve" if key in self.runs else None

    def optimizer_link(self, workload, optimizer):
        return None if self.runs else f"http://tracker/{workload}/{optimizer}"


@pytest.fixture
def write(tmp_path):
    def write(records, study, links=None):
        files = builder.write_report(records, study, tmp_path / "new" / "report", links)
        return files, Page(files.page.read_text(encoding="utf-8"))

    return write


def test_all_files_are_written_and_named(write):
    study = make_study(alpha0=[0.001, 0.01])
    files, page = write([trained(trial) for trial in study.trials()], study)
    folder = files.page.parent
    stems = ("alpha0", "best-of-k", "figure1", "loss-over-alpha0", "runtime", "step-size-profile")
    tables = ("alpha0_widths", "claims", "losses", "summary", "trials", "untuned")
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "conclusion.txt", *(f"{name}.csv" for name in tables)),
        *(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg", "pdf")),
    }
    assert {files.page, files.conclusion, *files.tables.values(), *files.figures} == set(folder.iterdir())
    assert all(imread(path).ndim == 3 for path in files.figures if path.suffix == ".png")
    for name in (
        "made-up",
        "Does it help?",
        "digits-logreg",
        "adam-adam",
        "python",
        "3.11.7",
        "2.11.0+cu130",
    ):
        assert name in page.text
    assert study.to_yaml() in page.text


def test_the_tables_hold_what_was_measured(write):
    study = make_study()
    finals = {"adam": 0.5, "adam-sgd": 0.4, "adam-adam": 0.3}
    files, page = write([trained(t, finals[t.optimizer]) for t in study.trials()], study)
    trials = pd.read_csv(files.tables["trials"])
    assert trials["key"].tolist() == [trial.key for trial in study.trials()]
    assert trials["final_train_loss"].tolist() == pytest.approx([0.5, 0.501, 0.4, 0.401, 0.3, 0.301])
    assert trials["iterations_to_threshold"].tolist() == pytest.approx([6, math.nan, 6, 6, 6, 6], nan_ok=True)
    summary = pd.read_csv(files.tables["summary"])
    assert summary["iterations_text"].tolist() == ["> 10 (6 – > 10)", "6", "6"]
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    assert ["Adam", "0.001", "–", "21 reached", "> 106 – > 10"] in [row[:5] for row in rows]


def test_the_page_needs_nothing_but_itself(write):
    study = make_study()
    _, page = write([trained(trial) for trial in study.trials()], study)
    assert not page.all("script")
    assert not page.all("link")
    images = [image["src"] for image in page.all("img")]
    assert len(images) == 2  # the curves and the runtime distribution
    for source in images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert b"<svg" in base64.b64decode(data)


def test_the_same_records_make_the_same_bytes(tmp_path):
    study = make_study()
    records = [trained(trial) for trial in study.trials()]
    first = builder.write_report(records, study, tmp_path / "a").page.parent
    second = builder.write_report(records[::-1], study, tmp_path / "b").page.parent
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_markup_in_names_is_shown_and_not_run(write):
    study = make_study(
        description=HOSTILE,
        workloads=[{"use": "digits-logreg", "kind": HOSTILE}],
        optimizers=["adam", "adam-adam"],
    )
    good, bad, *rest = study.trials()
    records = [
        trained(good, machine={HOSTILE: HOSTILE}),
        TrialRecord(bad, status="failed", error=f"Traceback:\n{HOSTILE}"),
        *(trained(trial) for trial in rest),
    ]
    files, page = write(records, study, Links({good.key: f'https://example.org/"><b>{HOSTILE}'}))
    assert not page.all("script")
    assert not page.all("b")[3:]  # the three captions' own
    assert page.text.count(HOSTILE) >= 4
    assert "<script" not in files.page.read_text(encoding="utf-8")


def test_trials_link_to_their_runs_and_only_to_web_addresses(write):
    study = make_study()
    first, second, third, *_ = study.trials()
    links = {first.key: "http://localhost:5000/#/runs/1?a=1&b=2", second.key: "javascript:alert(1)"}
    links |= {third.key: "https://example.org/2", "unknown": "https://example.org/3"}
    _, page = write([trained(trial) for trial in study.trials()], study, Links(links))
    runs = [links[first.key], links[third.key]]
    curves = [f"{run}/curve" for run in runs]
    # In the row over seeds, and in the list of trials with the curve.
    assert sorted(a["href"] for a in page.all("a") if not a["href"].startswith("#")) == sorted(
        [*runs, *runs, *curves]
    )


def test_missing_failed_and_diverged_trials_are_counted_and_named(write):
    study = make_study(optimizers=["adam", "adam-sgd", "adam-adam"])
    trials = study.trials()
    broken = EpochRecord(1, 1, np.array([1e-3]), np.zeros(1), np.array([math.nan]), math.nan, 0.1, 1.0)
    records = [
        trained(trials[0]),
        trained(trials[1], status="running"),
        TrialRecord(trials[2], status="failed", error="Traceback …\nValueError: no such file"),
        TrialRecord(trials[3], status="diverged", epochs=(broken,)),
        trained(trials[4]),
    ]
    _, page = write(records, study)
    text = " ".join(page.text.split())
    assert "3 of 6 ended, 2 reached, 1 diverged, 1 failed, 1 running, 1 not started" in text
    assert "Adam α₀=0.001 (1 of 2), Adam-HD α₀=0.001 β=1e-07 (1 of 2)" in text
    assert "adam-sgd α₀=0.001 β=1e-07 seed=0: ValueError: no such file" in text


def test_figures_and_tables_that_a_report_no_longer_has_go_and_other_files_stay(write):
    full, one = make_study(alpha0=[0.001, 0.01]), make_study(optimizers=["adam"], threshold={})
    files, _ = write([trained(trial) for trial in full.trials()], full)
    notes = files.page.parent / "notes.md"
    notes.write_text("mine")
    write([trained(trial) for trial in one.trials()], one)
    left = {path.name for path in files.page.parent.iterdir()}
    figure = {f"figure1.{kind}" for kind in ("png", "svg", "pdf")}
    assert left == {*figure, "index.html", "conclusion.txt", "notes.md", "summary.csv", "trials.csv"}


def test_tables_that_earlier_versions_wrote_go(write):
    study = make_study(optimizers=["adam"])
    files, _ = write([trained(trial) for trial in study.trials()], study)
    former = files.page.parent / "comparisons.csv"
    former.write_text("old")
    write([trained(trial) for trial in study.trials()], study)
    assert not former.exists()


def test_a_figure_is_one_module_in_the_registry(write, monkeypatch):
    """It draws from the study's evidence, stands in its section, and goes when it has nothing to show."""
    module = ModuleType("dots")
    module.STEM, module.SECTION = "dots", "budget"

    def draw(evidence):
        if len(evidence.trials) > 2:
            caption = f"{len(evidence.records)} dots of {evidence.study.name}"
            yield Drawn(Figure(), "Dots", caption, "-of-trials")

    module.draw = draw
    monkeypatch.setattr(registry, "FIGURES", (*registry.FIGURES, module))
    study = make_study()
    files, page = write([trained(trial) for trial in study.trials()], study)
    assert "dots-of-trials.svg" in {path.name for path in files.figures}
    assert "Dots. 6 dots of made-up" in " ".join(page.parts["budget"].split())
    few = make_study(optimizers=["adam"])
    files, page = write([trained(trial) for trial in few.trials()], few)
    assert "Dots" not in page.text
    assert not list(files.page.parent.glob("dots*"))


def test_every_figure_has_a_stem_and_a_section_of_its_own():
    stems = [module.STEM for module in registry.FIGURES]
    assert not [(a, b) for a in stems for b in stems if a != b and a.startswith(b)]
    assert {module.SECTION for module in registry.FIGURES} == set(registry.SECTIONS)


def test_claims_are_on_the_page_word_for_word_and_lead_to_their_runs(write):
    study = make_study(seeds=list(range(6)), alpha0=[0.001])
    finals = {"adam": 0.5, "adam-sgd": 0.45, "adam-adam": 0.3}
    trials = study.trials()
    records = [trained(trial, finals[trial.optimizer]) for trial in trials]
    files, page = write(records, study, Links({}))
    claims = pd.read_csv(files.tables["claims"])
    text = " ".join(page.text.split())
    assert len(claims) == 6
    known = claims[claims["claim"] != "less sensitive to α₀"]
    assert len(known) == 4
    for row in known.itertuples():
        assert " ".join(row.text.split()) in text
    assert "“less sensitive to α₀” is not judged: a width needs 3 or more α₀; both were tried at 1." in text
    better = claims[(claims["optimizer"] == "adam-adam") & (claims["claim"] == "generalizes better")].iloc[0]
    assert better["verdict"] == "supported"
    glance = next(row for row in page.rows if row and row[0].startswith("Adam–Adam β 1e-07against"))
    own = known[known["optimizer"] == "adam-adam"]
    shown = [f"{verdict}{ratio:.3g} ×" for verdict, ratio in zip(own["verdict"], own["ratio"], strict=True)]
    assert [" ".join(cell.split()).replace("1.00", "1") for cell in glance[1:]] == shown
    assert "Pilot" not in text
    assert "http://tracker/digits-logreg/adam-adam" in {a["href"] for a in page.all("a")}


def test_a_pilot_is_called_so_once_and_shows_directions(write):
    """Two seeds cannot decide anything: the page says so at the top and not in every line."""
    study = make_study()
    finals = {"adam": 0.3, "adam-sgd": 0.45, "adam-adam": 0.3}
    files, page = write([trained(trial, finals[trial.optimizer]) for trial in study.trials()], study)
    assert page.text.count("Pilot: 2 seeds, directions only.") == 1
    assert "undecided" not in page.text
    assert "too few" not in page.text
    assert set(pd.read_csv(files.tables["claims"])["verdict"]) == {"undecided"}
    glance = {row[0].partition("against")[0].strip(): row[2] for row in page.rows if "against" in row[0]}
    assert glance["Adam–Adam β 1e-07"].startswith("better0.667")
    assert glance["Adam-HD β 1e-07"].startswith("worse1.5")


def test_the_first_lines_say_what_ran_and_what_came_out(write):
    study = make_study(seeds=list(range(6)), alpha0=[0.001, 0.01])
    finals = {"adam": 0.6, "adam-sgd": 0.45, "adam-adam": 0.3}
    files, page = write([trained(trial, finals[trial.optimizer]) for trial in study.trials()], study)
    text = " ".join(page.text.split())
    sentence = (
        "3 optimizers on digits-logreg, from 2 initial learning rates (0.001 to 0.01), with 6 seeds: "
        "36 trials of 10 iterations, all of which have ended."
    )
    assert sentence in text
    results = " ".join(page.parts["results"].split())
    trials = pd.read_csv(files.tables["trials"]).pivot_table(
        index=["seed", "alpha0"], columns="optimizer", values="best_val_loss"
    )
    logs = np.log(trials["adam-sgd"] / trials["adam"]).groupby("seed").mean()
    assert f"Adam-HD had {np.exp(logs.mean()):.3f} × the best validation loss of Adam (95 %" in results
    assert "Better from every α₀; supported." in results
    assert len([tag for tag, attributes in page.tags if tag == "li" and "class" in attributes]) <= 5
    assert files.conclusion.read_text().strip() in results.replace("). Better", "); better")


def test_the_contents_lead_to_every_part_and_headings_are_in_order(write):
    study = make_study(alpha0=[0.001, 0.01])
    _, page = write([trained(trial) for trial in study.trials()], study)
    anchors = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(anchors) == set(ids)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))


def test_every_picture_says_in_words_what_it_shows(write):
    study = make_study()
    _, page = write([trained(trial) for trial in study.trials()], study)
    first, *others = [image["alt"] for image in page.all("img")]
    assert first.startswith("Learning rate and losses: learning rate α, training loss, validation loss over ")
    assert "lines: Adam, Adam-HD, Adam–Adam" in first
    assert all(len(alt) > 40 for alt in others)


def test_why_there_are_no_claims_is_said(write):
    plain = make_study(optimizers=["adam", "sgd"])
    _, page = write([trained(trial) for trial in plain.trials()], plain)
    assert "No optimizer here has a baseline" in page.text


def test_what_a_study_claims_of_its_own_has_a_section_with_every_verdict(write):
    claimed = make_study(
        optimizers=[{"name": "adam", "default_alpha0": 0.01}, {"name": "sgd", "default_alpha0": 0.001}],
        workloads=["digits-logreg", "digits-mlp"],
        alpha0=[0.001, 0.01],
        seeds=3,
        untuned={"optimizers": "adam", "against": "sgd", "within": 2, "rivals": "sgd"},
    )
    files, page = write([trained(trial) for trial in claimed.trials()], claimed)
    text = " ".join(page.parts["untuned"].split())
    assert "Is Adam as good from every α₀ as SGD tuned? Supported on 0 of 2 workloads." in text
    assert "Does Adam at its default reach the loss of SGD tuned in as many iterations? Supported" in text
    assert "Is Adam better at its default than SGD?" in text
    assert "The study's own claims are below" in page.text
    table = pd.read_csv(files.tables["untuned_claims"])
    assert table["claim"].tolist() == [*Question] * 2
    assert all(sentence in text for sentence in table["text"])
    shown = next(row for row in page.rows if row and row[0] == "Adam" and len(row) == 12)
    assert shown[10] == "2"


def limits(write, study, **changes) -> str:
    _, page = write([trained(trial, **changes) for trial in study.trials()], study)
    return " ".join(page.parts.get("limits", "").split())


@pytest.mark.parametrize(
    ("seeds", "says"), [(1, "1 seed per cell"), (5, "covers the median with 93.8 %"), (6, None)]
)
def test_few_seeds_are_a_limit(write, seeds, says):
    text = limits(write, make_study(optimizers=["adam"], seeds=list(range(seeds))))
    assert says in text if says else "per cell" not in text


def test_limits_follow_from_what_was_run(write):
    plain = limits(write, make_study(optimizers=["adam"], threshold={}))
    assert not re.search("GPU|released|threshold|Several", plain)
    gpu = limits(write, make_study(optimizers=["adam"]), machine={**MACHINE, "device": "NVIDIA H200"})
    assert "ran on a GPU" in gpu
    assert "by luck" in gpu
    released = limits(write, make_study(granularity={"adam-adam": "released"}, alpha0=[0.001, 0.01]))
    assert "Granularity “released” (Adam–Adam)" in released
    assert "Several α₀ or β ran on the same seeds" in released
    assert "granularity “group”" in limits(write, make_study())


def test_a_study_without_thresholds_has_no_threshold_figure(write):
    study = make_study(threshold={})
    files, page = write([trained(trial) for trial in study.trials()], study)
    assert [path.name for path in files.figures] == [f"figure1.{kind}" for kind in ("png", "svg", "pdf")]
    assert "iterations tothreshold" not in page.text
    assert "it takes trials that ended from two or more α₀" in page.text


def test_a_study_that_only_diverges_and_one_that_starts_from_zero_have_their_page(write):
    study = make_study(alpha0=[0, 1e6], optimizers=["adam-sgd"])
    nothing = EpochRecord(1, 1, np.array([1e6]), np.zeros(1), np.array([math.nan]), math.nan, 0.1, 1.0)
    records = [
        trained(trial) if trial.alpha0 == 0 else TrialRecord(trial, status="diverged", epochs=(nothing,))
        for trial in study.trials()
    ]
    _, page = write(records, study)
    assert "2 reached, 2 diverged" in page.text
    files, _ = write(records[2:], study)
    assert "figure1.png" in {path.name for path in files.figures}


def test_nothing_to_report_is_said(tmp_path):
    study = make_study()
    stranger = trained(Trial("digits-mlp", "sgd", 0.1, None, seed=0, epochs=2))
    with pytest.raises(ValueError, match="study made-up: no trial has finished an epoch yet"):
        builder.write_report([TrialRecord(study.trials()[0]), stranger], study, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_of_many_configurations_the_page_shows_the_best_and_the_tables_have_all(write, monkeypatch):
    monkeypatch.setattr(builder.table_rows, "MOST_CELLS", 10)
    monkeypatch.setattr(builder.table_rows, "BEST_CELLS", 2)
    monkeypatch.setattr(builder.table_rows, "MOST_TRIALS", 30)
    alphas = [round(0.001 * n, 3) for n in range(1, 9)]
    study = make_study(optimizers=["adam", "adam-sgd"], alpha0=alphas)
    best = {0.003: 0.1, 0.007: 0.2}
    files, page = write([trained(trial, best.get(trial.alpha0, 0.4)) for trial in study.trials()], study)
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    medians = [row[:2] for row in rows if row[0] in ("Adam", "Adam-HD") and len(row) == 10]
    assert medians == [["Adam", "0.003"], ["Adam", "0.007"], ["Adam-HD", "0.003"], ["Adam-HD", "0.007"]]
    assert "Of 16 combinations of optimizer, α₀ and β" in page.text
    assert "Each of the 32 trials has a line in trials.csv" in page.text
    assert len(pd.read_csv(files.tables["summary"])) == 16
    assert len(pd.read_csv(files.tables["trials"])) == 32


def test_of_many_failed_trials_the_page_names_the_first(write, monkeypatch):
    monkeypatch.setattr(builder.run_facts, "MOST_FAILURES", 2)
    study = make_study(seeds=6)
    first, *others = study.trials()
    failed = [TrialRecord(trial, status="failed", error="ValueError: no") for trial in others[:5]]
    _, page = write([trained(first), *failed], study)
    assert page.parts["failed"].count("ValueError: no") == 2
    assert "3 more" in page.parts["failed"]
