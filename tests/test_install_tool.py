"""``make study`` and ``make test`` install PyTorch's CPU build where pip finds one that suits, and say so."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "install.py"


def load():
    spec = importlib.util.spec_from_file_location("install_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


install = load()
PINS = install.pinned((ROOT / "constraints.txt").read_text())
TORCH, TORCHVISION = PINS["torch"], PINS["torchvision"]


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """A function that makes a folder of empty wheels the only place where pip looks for packages."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def make(*wheels: tuple[str, str]) -> None:
        for name, version in wheels:
            about = f"{name}-{version}.dist-info"
            requires = f"Requires-Dist: torch=={TORCH}\n" if name == "torchvision" else ""
            files = {
                f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
                f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{about}/RECORD": "",
            }
            with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
                for path, content in files.items():
                    wheel.writestr(path, content)

    return make


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
    monkeypatch.setattr(install, "has_cuda_device", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")


def resolved(extra: list[str], folder: Path) -> set[str]:
    """What pip would install under constraints.txt and these constraints."""
    constraints = folder / "extra.txt"
    constraints.write_text("\n".join(extra))
    done = subprocess.run(
        [*install.PIP, "install", "--dry-run", "--ignore-installed", "torch", "torchvision"]
        + [f"--constraint={path}" for path in (ROOT / "constraints.txt", constraints)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].partition("Would install ")[2].split())


def test_the_cpu_build_is_installed_where_pip_finds_it(offer, tmp_path):
    offer(("torch", TORCH), ("torchvision", TORCHVISION))
    offer(("torch", f"{TORCH}+cpu"), ("torchvision", f"{TORCHVISION}+cpu"))
    chosen, _, extra = install.choose_build(PINS)
    assert chosen == "the CPU build, as there is no CUDA device"
    assert resolved(extra, tmp_path) == {f"torch-{TORCH}+cpu", f"torchvision-{TORCHVISION}+cpu"}


def test_a_cpu_build_of_torch_alone_is_not_mixed_with_another_torchvision(offer, tmp_path):
    offer(("torch", TORCH), ("torchvision", TORCHVISION), ("torch", f"{TORCH}+cpu"))
    assert f"torch-{TORCH}+cpu" in resolved([], tmp_path)  # what pip does by itself
    chosen, _, extra = install.choose_build(PINS)
    assert chosen.endswith("(the package index offers no CPU build of both)")
    assert resolved(extra, tmp_path) == {f"torch-{TORCH}", f"torchvision-{TORCHVISION}"}


def test_with_a_cuda_device_nothing_is_asked_or_constrained(monkeypatch):
    monkeypatch.setattr(install, "has_cuda_device", lambda: True)
    monkeypatch.setattr(install, "unavailable", lambda builds: pytest.fail("pip was asked"))
    chosen, _, extra = install.choose_build(PINS)
    assert "as there is a CUDA device" in chosen
    assert extra == []


def test_pip_that_fails_is_reported_in_one_line(offer, monkeypatch):
    monkeypatch.setattr(install, "PIP", (sys.executable, "-c", "import sys; sys.exit('no network')"))
    assert install.unavailable(["torch==1+cpu"]) == "it is not known whether there is a CPU build: no network"


def test_progress_and_errors_of_pip_are_shown(capfd):
    said = r"print('Collecting torch\n  Downloading torch-2.whl (539.1 MB)\nERROR: disk is full'); exit(3)"
    assert install.follow([sys.executable, "-c", said]) == 3
    out, err = capfd.readouterr()
    assert "downloading: torch-2.whl, 539 MB" in out
    assert out.splitlines()[-1].startswith("failed after ")
    assert "ERROR: disk is full" in err
