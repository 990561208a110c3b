"""The versions that pyproject.toml allows are those that the files of constraints test."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import hypergrad
import study
from study import __main__ as program

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIBRARY = [Requirement(line) for line in PROJECT["dependencies"]]
STUDY = [Requirement(line) for line in EXTRAS["study"]]
ALL = LIBRARY + [Requirement(line) for lines in EXTRAS.values() for line in lines]


def pins(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("constraints.txt", ALL),
        ("constraints-lowest.txt", ALL),
        ("constraints-lowest-hypergrad.txt", LIBRARY),
    ],
)
def test_pinned_versions_are_allowed(name, requirements):
    pinned = pins(name)
    refused = {
        str(r) for r in requirements if (v := pinned.get(canonicalize_name(r.name))) and v not in r.specifier
    }
    assert not refused


def bound(requirement: Requirement) -> Version:
    (lower,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
    return lower


def test_the_lowest_versions_are_the_lower_bounds():
    lowest = pins("constraints-lowest-hypergrad.txt")
    for requirement in LIBRARY:
        assert lowest[canonicalize_name(requirement.name)] == bound(requirement), requirement
    lowest = pins("constraints-lowest.txt")
    for requirement in STUDY:
        assert lowest[canonicalize_name(requirement.name)] == bound(requirement), requirement
    assert {requirement.name for requirement in LIBRARY} <= {requirement.name for requirement in STUDY}


def test_the_optimizers_need_pytorch_alone():
    assert [requirement.name for requirement in LIBRARY] == ["torch"]


def test_every_dependency_is_pinned():
    pinned = pins("constraints.txt")
    assert [r.name for r in LIBRARY + STUDY if canonicalize_name(r.name) not in pinned] == []


def test_the_program_knows_the_modules_of_the_extra():
    modules = {"ruamel.yaml": "ruamel", "scikit-learn": "sklearn", "pillow": "PIL"}
    assert {modules.get(each.name, each.name) for each in LIBRARY + STUDY} == program._EXTRA


def test_the_version_is_the_same_everywhere():
    cited = re.findall(r"^version: (\S+)", (ROOT / "CITATION.cff").read_text(), re.M)
    assert {hypergrad.__version__, study.__version__, *cited} == {PROJECT["version"]}
