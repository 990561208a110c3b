"""Failures are told from stored tracebacks: what was raised, and where in the user's code."""

import textwrap
import traceback

import pytest

from study.config.loader import Trial
from study.storage.failures import Failure, cause_of, failures, place_of
from study.storage.records import TrialRecord

TORCH = '  File "/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", line 134, in forward\n    x'


def trial(seed=0, optimizer="adam-adam", workload="work:spirals"):
    return Trial(workload, optimizer, 0.01, 1e-5, seed=seed, epochs=1)


def failed(error, **more):
    return TrialRecord(trial(**more), status="failed", error=error)


def raised(tmp_path, source, name="users.py", package="project"):
    """Return the traceback of a module of a user's that is executed, and its path."""
    path = tmp_path / package / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    try:
        exec(compile(path.read_text(), str(path), "exec"), {})
    except BaseException as error:
        return "".join(traceback.format_exception(error.with_traceback(error.__traceback__.tb_next))), path
    raise AssertionError("the source raised nothing")


def test_the_place_is_the_innermost_line_of_the_users_code(tmp_path):
    """The exception comes out of torch and out of the standard library, called by the user's code."""
    source = """
    import torch, json

    def forward(inputs):
        return torch.nn.Linear(9, 2)(inputs)

    def load(folder):
        return json.loads("{")

    %s
    """
    text, path = raised(tmp_path, source % "forward(torch.zeros(3, 8))")
    assert place_of(text) == f"{path}:5"
    assert cause_of(text).startswith("RuntimeError: ")
    assert cause_of(text).endswith("mat1 and mat2 shapes cannot be multiplied (3x8 and 9x2)")
    text, path = raised(tmp_path, source % "load(None)")
    assert place_of(text) == f"{path}:8"
    assert cause_of(text).startswith("json.decoder.JSONDecodeError: Expecting property name")


def test_this_packages_own_code_is_not_the_users(tmp_path):
    """Nor is it where the package lies elsewhere, as on another node."""
    source = """
    from study.workloads import registry

    registry.resolve("nothing-like-it", {})
    """
    text, path = raised(tmp_path, source)
    assert place_of(text) == f"{path}:4"
    elsewhere = text.replace(registry_path(), "/opt/node/study/workloads/registry.py")
    assert "/opt/node" in elsewhere
    assert place_of(elsewhere) == f"{path}:4"
    assert cause_of(text).startswith("unknown workload 'nothing-like-it'")


def registry_path():
    from study.workloads import registry

    return registry.__file__


def test_a_users_folder_called_study_is_the_users(tmp_path):
    text, path = raised(tmp_path, "raise ValueError('mine')", package="study", name="mywork.py")
    assert place_of(text) == f"{path}:1"


def test_what_led_to_the_last_exception_tells_the_place_if_that_does_not(tmp_path):
    source = """
    from study.workloads.registry import WorkloadError

    def work():
        {}["missing"]
    """
    text, path = raised(tmp_path, source + "\n    work()")
    ours = f'Traceback (most recent call last):\n  File "{registry_path()}", line 50, in _make\n    raise\n'
    last = "study.workloads.registry.WorkloadError: workload 'm:work': KeyError: 'missing'\n"
    chained = f"{text}\nThe above exception was the direct cause of the following exception:\n\n{ours}{last}"
    assert place_of(chained) == f"{path}:5"
    assert cause_of(chained) == "workload 'm:work': KeyError: 'missing'"


def test_installed_code_of_others_counts_where_the_user_has_none():
    header = "Traceback (most recent call last):\n"
    users = '  File "/home/me/work.py", line 3, in forward\n    rearrange(x)\n'
    other = '  File "/venv/lib/python3.11/site-packages/einops/einops.py", line 9, in rearrange\n    raise\n'
    end = "EinopsError: wrong shape\n"
    assert place_of(header + users + other + end) == "/home/me/work.py:3"
    assert place_of(header + other + end).endswith("einops.py:9")
    assert place_of(header + TORCH + "\n" + end) is None
    installed = users.replace("/home/me", "/venv/lib/python3.11/site-packages/mine")
    assert place_of(header + installed + other + end, ["mine"]).endswith("mine/work.py:3")
    assert place_of(header + TORCH + "\n" + end, ["torch"]) is None


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "RuntimeError: CUDA error: an assert\nCompile with X to debug.\n",
            "RuntimeError: CUDA error: an assert",
        ),
        (
            "RuntimeError: Error(s) in loading Net:\n\tMissing key(s).\n",
            "RuntimeError: Error(s) in loading Net: Missing key(s).",
        ),
        ("KeyboardInterrupt\n", "KeyboardInterrupt"),
        (
            "RuntimeError: Caught ValueError in worker 0.\nOriginal Traceback (most recent call last):\n"
            '  File "/home/me/data.py", line 7, in fetch\n    x\nValueError: bad row\n',
            "RuntimeError: Caught ValueError in worker 0.",
        ),
    ],
)
def test_the_cause_is_one_line_of_the_message(message, cause):
    assert cause_of(f"Traceback (most recent call last):\n{TORCH}\n{message}") == cause


@pytest.mark.parametrize("text", ["", "\n", "Traceback (most recent call last):\n", "half a trace"])
def test_a_text_that_is_no_traceback_is_no_error(text):
    assert cause_of(text) in ("no error was kept", "half a trace")
    assert place_of(text) is None


def test_each_cause_is_listed_once_with_all_that_it_hit(tmp_path):
    shapes = [
        "Traceback (most recent call last):\n"
        f'  File "/w.py", line {line}, in f\n    x\nValueError: Target {n}\n'
        for line, n in ((3, 3), (3, 4), (9, 3))
    ]
    records = [
        failed(shapes[0]),
        failed(shapes[1], seed=1),
        TrialRecord(trial(seed=2), status="finished"),
        failed(shapes[2], seed=3),
        failed(shapes[0], seed=4, optimizer="sgd"),
        failed(shapes[0], seed=4, workload="digits-logreg"),
        failed(None, seed=5),
    ]
    first, second, third = failures(records)
    assert first == Failure(
        "ValueError: Target 3",
        "/w.py:3",
        ("work:spirals", "digits-logreg"),
        ("adam-adam", "sgd"),
        4,
        shapes[0],
    )
    assert (second.place, second.trials) == ("/w.py:9", 1)
    assert (third.cause, third.place, third.trials) == ("no error was kept", None, 1)
    assert failures([]) == []
