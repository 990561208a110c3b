"""The wheel, installed into an environment that holds PyTorch, what PyTorch requires, and nothing else."""

import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SOURCES = ("hypergrad", "study")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path, code: int = 0) -> tuple[str, str]:
    """Run a command without this environment's variables for Python; return what it prints and reports."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=environment, timeout=250
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources, so that no file of an earlier build gets into it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        copytree(ROOT / name, source / name, ignore=ignore_patterns("__pycache__"))
    for name in FILES:
        copy(ROOT / name, source / name)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", source / "dist", source),
        cwd=source,
    )
    (built,) = (source / "dist").iterdir()
    return built


def required(name: str) -> Iterator[metadata.Distribution]:
    """Yield an installed distribution and all that it requires here, without extras."""
    todo, seen = [canonicalize_name(name)], set()
    while todo:
        if (name := todo.pop()) in seen:
            continue
        seen.add(name)
        yield (distribution := metadata.distribution(name))
        for line in distribution.requires or ():
            requirement = Requirement(line)
            extras = [{"extra": extra} for extra in (*requirement.extras, "")]
            if requirement.marker is None or any(map(requirement.marker.evaluate, extras)):
                todo.append(canonicalize_name(requirement.name))


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel) -> Path:
    """A virtual environment with the wheel, and links to the files of PyTorch and of all that it requires."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for distribution in required("torch"):
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).exists():  # distributions share the folder nvidia
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    # Never with requirements: pip would install them through the links, into the environment of this test.
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    return folder


def test_the_wheel_has_all_files_that_are_not_python(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    needed = {
        str(path.relative_to(ROOT))
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".py") and "__pycache__" not in path.parts
    }
    assert {"hypergrad/py.typed", "hypergrad/kernels/cpu.c", "study/config/presets/quickstart.yaml"} <= needed
    assert needed <= held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == set(SOURCES)


def test_the_wheel_requires_pytorch_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(about).decode().splitlines()
    required = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist: ")]
    assert [one.name for one in required if one.marker is None] == ["torch"]
    assert all("extra ==" in str(one.marker) for one in required if one.marker)


def test_the_optimizers_train_with_pytorch_alone(environment, tmp_path):
    script = """
        import importlib.util, torch, hypergrad, study
        model = torch.nn.Linear(4, 1)
        optimizer = hypergrad.Adam(model.parameters(), lr=1e-3, hypergrad_lr=1e-4, lop="adam")
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(8, 4)).square().mean().backward()
            optimizer.step()
        print(hypergrad.__version__, study.__version__, hypergrad.__file__)
        print(optimizer.param_groups[0]["lr"].item() != 1e-3)
        print([name for name in ("ray", "mlflow", "pandas") if importlib.util.find_spec(name)])
    """
    code = textwrap.dedent(script)
    said, _ = run(environment / "bin" / "python", "-c", code, cwd=tmp_path)
    versions, learned, found = said.splitlines()
    assert versions.startswith(f"{metadata.version('hypergrad-study')} " * 2 + str(environment))
    assert (learned, found) == ("True", "[]")


@pytest.mark.parametrize("words", [["hypergrad-study"], ["python", "-m", "study"]])
def test_the_program_says_what_to_install(environment, tmp_path, words):
    said = run(environment / "bin" / words[0], *words[1:], "run", "quickstart", cwd=tmp_path, code=2)[1]
    assert said == (
        "error: typer is not installed; studies need more packages than the optimizers: "
        "pip install 'hypergrad-study[study]'\n"
    )
