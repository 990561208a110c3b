"""Hides packages that a bare GPU machine lacks from a Python process: a test's ``sitecustomize.py``."""

import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

HAS = {
    *(
        "torch",
        "torchgen",
        "functorch",
        "torchvision",
        "triton",
        "nvidia",
        "cuda",
        "numpy",
        "PIL",
        "filelock",
    ),
    *("sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "typing_extensions", "packaging"),
    *("pytest", "_pytest", "py", "pluggy", "iniconfig", "pygments", "pytest_timeout"),
    *("hypothesis", "_hypothesis_ftz_detector", "_hypothesis_globals", "_hypothesis_pytestplugin"),
    *("sortedcontainers", "attr", "attrs"),
}
"""torch, torchvision, pytest, hypothesis and what they need: a part of what such a machine has."""

INSTALLED = ("site-packages", "dist-packages")


class Bare:
    """Finds everything on ``sys.path`` but installed packages that the machine lacks."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        spec = PathFinder.find_spec(name, path, target)
        if path is not None or spec is None or name in HAS:
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or ())]
        return None if any(folder in place for folder in INSTALLED for place in places) else spec

    @staticmethod
    def find_distributions(*args, **options):
        known = {name.replace("_", "-") for name in HAS}
        for found in PathFinder.find_distributions(*args, **options):
            name = found.metadata["Name"].lower().replace("_", "-")
            # An installed version of this project is none of the copy's.
            if name in known or (
                name == "hypergrad-study" and "site-packages" not in str(found.locate_file(""))
            ):
                yield found

    @staticmethod
    def invalidate_caches():
        PathFinder.invalidate_caches()


sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Bare]
