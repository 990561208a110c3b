"""The MLflow UI in a real browser, over a real study: what a researcher opens first."""

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.tracking.mlflow_backend import views
from study.tracking.mlflow_backend.run_fields import RunNames
from study.tracking.mlflow_backend.ui_server import serving
from study.training.worker import run_bundle

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT_SECONDS = 90


@pytest.fixture(scope="module")
def driver():
    """Debian's chromium, headless, kept from talking to anyone but this machine."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium and chromedriver on this machine; Debian: apt-get install chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--window-size=1600,1200",
    ):
        options.add_argument(flag)
    for chances in (2, 1, 0):
        try:
            browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
            break
        except http.client.HTTPException:
            # A Ray that another test started took the port that selenium had found free.
            if not chances:
                raise
    yield browser
    browser.quit()


@pytest.fixture
def kept(write_study, tmp_path):
    """A small study, trained here and kept in an embedded store; its trials and the folder of runs."""
    study, _ = write_study(optimizers=["sgd", "adam-adam"], seeds=2, epochs=3)
    folder = StudyFolder(tmp_path / "runs", study.name)
    folder.save_study(study)
    list(run_bundle(study.trials(), folder))
    tracker = open_tracker(study, embedded_uri(folder.runs), folder)
    tracker.begin()
    for record in folder.records(study.trials()):
        tracker.publish(record)
    tracker.close(completed=True)
    return tracker, study.trials(), folder


def wait_for(what, seconds=WAIT_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "the page did not come to show it"
        time.sleep(0.5)
    return found


def text(driver):
    return driver.execute_script("return document.body.innerText")


def drawn(driver):
    """The curves on the page: each chart is a plotly drawing, each curve a path with more than one point."""
    script = "return [...document.querySelectorAll('.scatterlayer .js-line')].map(p => p.getAttribute('d'))"
    return [path for path in driver.execute_script(script) if path and path.count("L") + path.count("C")]


def titles(driver):
    """The names of the charts, in their order."""
    cards = "[data-testid='experiment-view-compare-runs-card']"
    script = f'return [...document.querySelectorAll("{cards}")].map(e => e.innerText.trim())'
    return [words.splitlines()[0] for words in driver.execute_script(script)]


def scales(driver):
    """What the vertical axes of the charts are: ``log`` or ``linear``."""
    script = "return [...document.querySelectorAll('.js-plotly-plot')].map(e => e._fullLayout.yaxis.type)"
    return driver.execute_script(script)


@pytest.mark.browser
def test_the_command_opens_the_saved_view_and_a_run_draws_its_alpha(driver, kept, tmp_path):
    tracker, trials, folder = kept
    words = ["-m", "study", "ui", "small", "--runs", str(folder.runs), "--port", "0", "--no-browser"]
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        page = next(line.strip() for line in lines if line.startswith("http"))
        driver.get(page)
        names = list(map(RunNames(tracker.study).of, trials))
        wait_for(lambda: all(name in text(driver) for name in names))
        # The saved view: its name, its charts first, each with a curve; α on a logarithmic axis.
        wait_for(lambda: "Curves of α and the loss" in text(driver))
        wait_for(lambda: len(drawn(driver)) >= 3 * len(trials))
        assert titles(driver) == ["alpha", "train_loss", "val_loss"]
        assert set(scales(driver)) == {"log"}
        assert "Model metrics" in text(driver)  # all other metrics, folded away
        driver.save_screenshot(str(tmp_path / "runs.png"))

        learned = next(trial for trial in trials if trial.lop)
        base = page.partition("#")[0]
        run, _, words = tracker.trial_link(learned.key).partition("#")[2].partition("?")
        driver.get(f"{base}#{run}/model-metrics?{words}")
        wait_for(lambda: "alpha" in text(driver).split())
        wait_for(lambda: any(path.count("L") + path.count("C") > 5 for path in drawn(driver)))
        driver.save_screenshot(str(tmp_path / "run.png"))
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(f"{base}health", timeout=2)


def shown(driver, selector, words=""):
    """The elements on show whose text begins with ``words``; none while the page is being redrawn."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By

    try:
        found = [e for e in driver.find_elements(By.CSS_SELECTOR, selector) if e.is_displayed()]
        return [element for element in found if element.text.strip().startswith(words)]
    except StaleElementReferenceException:
        return []


def click(driver, selector, words="", which=0):
    """Click an element once it is there and nothing is in front of it."""
    from selenium.common.exceptions import WebDriverException

    def clicked():
        try:
            shown(driver, selector, words)[which].click()
        except (IndexError, WebDriverException):
            return False
        return True

    wait_for(clicked)


def choose(driver, selector, which, words):
    """Type into a box and choose what its list then shows; type again if the page lost the words."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def chosen():
        try:
            if options := shown(driver, "[class*=select-item-option]", words):
                options[0].click()
                return True
            box = shown(driver, selector)[which]
            box.click()
            box.find_element(By.CSS_SELECTOR, "input").send_keys(Keys.CONTROL + "a", Keys.NULL, words)
        except (IndexError, WebDriverException):
            pass
        return False

    wait_for(chosen)


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_the_views_of_the_documentation_are_where_it_says(driver, kept):
    """docs/mlflow-ui.md: filter by tag, group by optimizer, parallel coordinates, the curve's file."""
    tracker, trials, folder = kept
    plain, learned = (next(trial for trial in trials if bool(trial.lop) is it) for it in (False, True))
    name = RunNames(tracker.study).of
    with serving(embedded_uri(folder.runs), port=0) as address:

        def go(link):
            driver.get("about:blank")
            driver.get(f"{address}/#{link.partition('#')[2]}")

        go(tracker.search_link("tags.optimizer LIKE 'adam-%' and tags.alpha0 = '0.01'"))
        wait_for(lambda: name(learned) in text(driver))
        assert name(plain) not in text(driver)
        if shown(driver, "[data-component-id='mlflow.assistant.chat_panel.close']"):
            click(driver, "[data-component-id='mlflow.assistant.chat_panel.close']")

        go(tracker.search_link("tags.role = 'trial'") + "&compareRunsMode=CHART")
        click(driver, "button", "Add chart")
        click(driver, "[role=menuitem]", "Parallel coordinates")
        for box, names in enumerate((("log10_alpha0", "log10_beta"), ("iterations_to_threshold",))):
            for column in names:
                choose(driver, "[role=dialog] [class*=select-selector]", box, column)
            driver.find_element("xpath", "//*[text()='Chart type']").click()  # closes the list
        axes = "return [...document.querySelectorAll('[role=dialog] svg text')].map(e => e.textContent)"
        names = {"log10_alpha0", "log10_beta", "iterations_to_threshold"}
        wait_for(lambda: names <= set(driver.execute_script(axes)))

        go(tracker.search_link("tags.role = 'trial'"))
        click(driver, "button", "Group by")
        click(driver, "[role=menuitemcheckbox]", "optimizer")
        wait_for(lambda: "Group: sgd" in text(driver))

        go(tracker.curve_link(learned.key))
        wait_for(lambda: f"{folder.artifacts}/small" in text(driver) and "curve.parquet" in text(driver))
        # In the mode for model training, whose menu has the runs; the other one has traces and judges.
        assert "Judges" not in text(driver)


@pytest.mark.browser
def test_the_saved_views_have_the_columns_and_the_parallel_coordinates(driver, kept, tmp_path):
    tracker, trials, folder = kept
    plain = next(trial for trial in trials if not trial.lop)
    with serving(embedded_uri(folder.runs), port=0) as address:

        def go(page):
            driver.get("about:blank")
            driver.get(f"{address}/{page}")

        go(views.page(tracker.experiment_id).replace("CHART", "TABLE"))
        wait_for(lambda: RunNames(tracker.study).of(plain) in text(driver))
        if shown(driver, "[data-component-id='mlflow.assistant.chat_panel.close']"):
            click(driver, "[data-component-id='mlflow.assistant.chat_panel.close']")
        driver.set_window_size(2400, 1200)  # the table leaves out columns that are not in sight
        headers = """return [...document.querySelectorAll('.ag-header-cell')]
            .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left)
            .map(e => e.innerText.trim())"""
        wanted = ["optimizer", "alpha0", "beta", "seed", "outcome", "final_train_loss", "best_val_loss"]
        wait_for(lambda: [name for name in driver.execute_script(headers) if name in wanted] == wanted)

        # By the menu of views, as people come to the second one.
        click(driver, "button", "Curves of α and the loss")
        click(driver, "[role=menuitem]", "Parallel coordinates")
        wait_for(lambda: views.PARALLEL_VIEW in driver.current_url)
        if "compareRunsMode=CHART" not in driver.current_url:
            go(views.page(tracker.experiment_id, views.PARALLEL_VIEW))
        axes = "return [...document.querySelectorAll('svg text')].map(e => e.textContent)"
        names = {"log10_alpha0", "log10_beta", "optimizer", "best_val_loss"}
        wait_for(lambda: names <= set(driver.execute_script(axes)))
        driver.save_screenshot(str(tmp_path / "parallel.png"))


def test_the_next_port_serves_where_one_is_taken_and_that_is_said(tmp_path):
    said = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with serving(f"sqlite:///{tmp_path / 'x.db'}", port, said.append) as address:
            served = urlsplit(address).port
            assert urllib.request.urlopen(f"{address}/health", timeout=20).status == 200
    assert port < served <= port + 50
    assert said == [f"port {port} is taken; using {served}"]
