"""The page in a real browser: a desk, a phone, and a dark room; it fetches nothing."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from study.config.loader import Study
from study.report import builder, dark
from study.storage.records import EpochRecord, TrialRecord

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = pytest.mark.browser


def epoch(trial, number, final) -> EpochRecord:
    """Return one of four epochs, of five iterations."""
    loss = np.full(5, final + (3 - number) * (1 + trial.seed / 100))
    alpha = np.full(5, trial.alpha0 * (1 + number * (trial.lop is not None)))
    return EpochRecord(number + 1, 5 * number + 1, alpha, np.zeros(5), loss, 1.1 * loss[0], 0.9, 1.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    study = Study.model_validate(
        {
            "name": "made-up",
            "workloads": ["digits-logreg"],
            "optimizers": ["adam", "adam-sgd", "adam-adam"],
            "alpha0": [0.001, 0.01, 0.1],
            "beta": 1e-7,
            "seeds": 6,
            "epochs": 4,
            "threshold": 0.5,
        }
    )
    final = {"adam": 0.5, "adam-sgd": 0.4, "adam-adam": 0.3}
    records = [
        TrialRecord(
            trial, "finished", tuple(epoch(trial, number, final[trial.optimizer]) for number in range(4))
        )
        for trial in study.trials()
    ]
    return builder.write_report(records, study, tmp_path_factory.mktemp("report")).page


@pytest.fixture(scope="module")
def browser():
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on this machine; Debian: apt-get install chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, page, width=1280, height=900, scheme="light"):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())


def corner_of_figure_1(browser) -> list[int]:
    """Return the colour of the first picture's corner, as the screen shows it."""
    left, top = browser.execute_script(
        "const box = document.querySelector('.first img').getBoundingClientRect(); return [box.left, box.top]"
    )
    screen = imread(io.BytesIO(browser.get_screenshot_as_png()))
    return [round(255 * float(part)) for part in screen[int(top) + 3, int(left) + 3, :3]]


def test_the_first_screen_has_the_results_and_figure_1(browser, page):
    show(browser, page)
    tops = browser.execute_script(
        "return ['h1', '.ran', '#results', '.first img'].map(s => "
        "document.querySelector(s).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops[-1] < 700
    wide = browser.execute_script("return document.querySelector('.first img').naturalWidth")
    assert wide > 300  # it is drawn, not broken


def test_a_link_of_the_contents_opens_what_is_folded(browser, page):
    show(browser, page)
    fold = "document.querySelector('#reproduce').closest('details').open"
    assert not browser.execute_script(f"return {fold}")
    browser.execute_script("document.querySelector('nav a[href=\"#reproduce\"]').click()")
    assert browser.execute_script(f"return {fold}")
    place = "return document.querySelector('#reproduce').getBoundingClientRect().top"
    assert 0 <= browser.execute_script(place) < 900


@pytest.mark.parametrize("width", [375, 320])
def test_a_phone_shows_the_whole_width_and_wide_tables_scroll_inside_their_box(browser, page, width):
    show(browser, page, width=width, height=812)
    browser.execute_script("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.wide')].map(box => [box.clientWidth, box.scrollWidth])"
    )
    assert any(inside > box for box, inside in boxes)
    assert all(box < width for box, _ in boxes)


def test_a_dark_scheme_darkens_the_page_and_its_figures(browser, page):
    seen = {}
    for scheme in ("light", "dark"):
        show(browser, page, scheme=scheme)
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        seen[scheme] = (background, corner_of_figure_1(browser))
    red, green, blue = (int(dark.PAPER[place : place + 2], 16) for place in (1, 3, 5))
    assert seen["light"] == ("rgb(255, 255, 255)", [255, 255, 255])
    assert seen["dark"] == (f"rgb({red}, {green}, {blue})", [red, green, blue])


def test_nothing_is_fetched(browser, page):
    show(browser, page)
    fetched = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in fetched if not name.startswith("data:")] == []
