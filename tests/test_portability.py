"""hypergrad and study need nothing that only Linux has: import, plan, train and lock with it all hidden."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALL_PACKAGES = """
    filelock jinja2 matplotlib.pyplot mlflow.tracking numpy optuna pandas PIL.Image platformdirs psutil
    pyarrow.parquet pydantic ray.tune rich.console ruamel.yaml scipy.stats sklearn.datasets torch
    torchvision.datasets typer.testing yaml
"""


def run(code: str, *arguments: object, packages: str = "psutil") -> str:
    """Run ``code`` without Linux, after importing ``packages``, and return what it prints."""
    script = ROOT / "tests" / "without_linux.py"
    done = subprocess.run(
        [sys.executable, script, packages, textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_linux_is_hidden():
    said = run("""
        import os, signal, time
        print(hasattr(os, "sched_getaffinity"), hasattr(signal, "SIGRTMIN"), hasattr(time, "CLOCK_BOOTTIME"))
        from study.storage import lock_holder
        print(lock_holder.this_place())  # on Linux, told by /proc
    """)
    assert said.split() == ["False", "False", "False", os.uname().nodename]


def test_every_module_imports_and_a_study_is_planned(tmp_path):
    said = run(
        """
        import importlib, pkgutil, sys
        import hypergrad, study
        for package in (hypergrad, study):
            for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
        from study.__main__ import main
        sys.argv = ["hypergrad-study", "plan", "quickstart", "--runs", sys.argv[3]]
        main()
        """,
        tmp_path,
        packages=ALL_PACKAGES,
    )
    assert re.search(r"^time: ", said, re.M)


def test_a_trial_is_trained_and_the_optimizer_says_why_it_has_no_kernels(write_study, tmp_path):
    _, file = write_study(optimizers=["adam-adam"], epochs=1)
    said = run(
        """
        import sys
        from pathlib import Path
        from hypergrad import kernels
        from study import load_study
        from study.storage.study_folder import StudyFolder
        from study.training.worker import run_bundle
        study = load_study(Path(sys.argv[3]))
        folder = StudyFolder(Path(sys.argv[4]), study.name)
        print([status for _, status in run_bundle(study.trials(), folder)])
        print(kernels.why_not())
        """,
        file,
        tmp_path / "runs",
        packages="torch sklearn.datasets",
    )
    assert "['finished', 'finished']" in said
    assert "this is darwin" in said


LOCK = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from study.storage.driver_lock import DriverLock, DriverLockError
from study.storage.lock_holder import Holder

here = asdict(Holder.here())
lease = Path(sys.argv[3])
if not lease.exists():
    lease.write_text(json.dumps(here))
try:
    with DriverLock(lease):
        print("held")
except DriverLockError as error:
    print("refused:", error)
"""


def test_a_lock_is_refused_while_its_holder_runs(tmp_path):
    assert run(LOCK, tmp_path / "driver.lease").startswith("refused: is being run by")


@pytest.mark.parametrize("number", ["of a process that ended", "given to another process"])
def test_a_lock_is_taken_over_from_a_dead_holder(number, tmp_path):
    lease = tmp_path / "driver.lease"
    run(LOCK, lease)
    if number == "given to another process":
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"pid": os.getpid()}))
    assert run(LOCK, lease).strip() == "held"
