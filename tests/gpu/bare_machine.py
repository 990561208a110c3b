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
    *("sortedcontainers",),
}
"""torch, torchvision, pytest, hypothesis and what they need: a part of what such a machine has."""
SEEN = HAS | {"gpu", "hypergrad", "study", "tests", "sitecustomize", *sys.stdlib_module_names}


class Bare:
    """Finds on ``sys.path`` what the machine has and what is of this repository; nothing else is there."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        root = name.partition(".")[0]
        if path is None and root not in SEEN and not root.startswith("_sysconfigdata"):
            return None
        return PathFinder.find_spec(name, path, target)

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
