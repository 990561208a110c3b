"""The versions that pyproject.toml allows are those that constraints.txt and constraints-lowest.txt test."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DEPENDENCIES = [Requirement(line) for line in PROJECT["dependencies"]]
ALL = DEPENDENCIES + [Requirement(line) for lines in EXTRAS.values() for line in lines]


def pins(name: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    pairs = (line.split("==") for line in lines)
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-lowest.txt"])
def test_pinned_versions_are_allowed(name):
    pinned = pins(name)
    refused = {str(r) for r in ALL if (v := pinned.get(canonicalize_name(r.name))) and v not in r.specifier}
    assert not refused


def test_the_lowest_versions_are_the_lower_bounds():
    lowest = pins("constraints-lowest.txt")
    for requirement in DEPENDENCIES:
        (bound,) = (Version(each.version) for each in requirement.specifier if each.operator == ">=")
        assert lowest[canonicalize_name(requirement.name)] == bound, requirement


def test_every_dependency_is_pinned():
    pinned = pins("constraints.txt")
    assert [r.name for r in DEPENDENCIES if canonicalize_name(r.name) not in pinned] == []
