"""The examples run as they are: the notebook in a real kernel, the training loop with PyTorch alone."""

import base64
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The code cells of the notebook with the outputs of a run in an empty folder."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    path = os.pathsep.join(filter(None, (str(EXAMPLES.parent), os.environ.get("PYTHONPATH"))))
    client.execute(env={**os.environ, "PYTHONPATH": path})
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_no_cell_of_the_notebook_warns(cells):
    assert [output.text for cell in cells for output in cell.outputs if output.output_type == "stream"] == []


def test_a_study_shows_a_bar_that_reaches_its_end_and_then_its_results(cells):
    (cell,) = [cell for cell in cells if "study.run(" in cell.source]
    bar, results = (output.data["text/html"] for output in cell.outputs)
    assert 'value="1.0000"' in bar
    assert "54/54 trials done" in bar
    assert "<td>sgd-sgdn</td>" in results


@pytest.mark.parametrize("source", ["results.figure1(", "results.sensitivity(", "alpha.plot("])
def test_figures_are_shown_as_pictures(cells, source):
    (cell,) = [cell for cell in cells if source in cell.source]
    (picture,) = [output.data["image/png"] for output in cell.outputs if "image/png" in output.data]
    assert base64.b64decode(picture).startswith(PNG)


def test_tables_are_shown(cells):
    (claims,) = [cell for cell in cells if "results.claims" in cell.source]
    assert "supported" in claims.outputs[0].data["text/html"]


def test_the_training_loop_learns_its_learning_rate(tmp_path):
    out = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "training_loop.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert out.returncode == 0, out.stderr
    *_, fixed, alpha, learned, learned_alpha = map(float, out.stdout.split()[-4:])
    assert alpha == 1e-4
    assert learned_alpha > 10 * alpha  # α₀ is far too small
    assert learned < fixed / 5
