"""Loads study files and presets, and reports all their errors at once, a line per problem.

Nothing here imports torch, Ray or MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.config import messages, overrides, yaml_reader
from study.config.optimizer_name import LOPS, OPS, OPTIMIZERS
from study.config.search_section import Asha, Search
from study.config.sections import OptimizerSection, Range, Resources
from study.config.study import Study
from study.config.trial import Trial
from study.config.validators import TAGS
from study.config.yaml_reader import ConfigError

__all__ = ["LOPS", "OPS", "OPTIMIZERS", "ConfigError", "Resources", "Study", "Trial", "load_study"]

_PRESETS = Path(__file__).parent / "presets"


def load_study(source: str | Path | Mapping[str, Any], settings: Iterable[str] = ()) -> Study:
    """Read and validate a study.

    ::

        >>> from study import load_study
        >>> len(load_study("quickstart").trials())
        162

    Args:
        source: A preset's name, or the path of a YAML file (always a path if it is a ``Path``), or a mapping
            with the keys and values of such a file.
        settings: Settings that replace those of ``source``, such as ``epochs=3`` or ``search.points=5``.

    Raises:
        ConfigError: The study is not valid; the error has one line per problem.
    """
    changes = overrides.parse(settings)
    document = _document(source)
    if changes and isinstance(document.value, dict):
        document = overrides.Changed(document, changes)
    if not isinstance(document.value, dict):
        shown = messages.show(document.value)
        raise document.error([((), f"the file holds {shown}; write a mapping such as name: my-study")])
    try:
        study = Study.model_validate(document.value)
    except ValidationError as error:
        raise document.error((_place(e), _advice(e)) for e in error.errors(include_url=False)) from None
    if document.problems:
        raise document.error(())
    return study


def _document(source: str | Path | Mapping[str, Any]) -> overrides.Source:
    if isinstance(source, Mapping):
        return overrides.Written(source)
    if isinstance(source, str) and source in preset_names():
        return yaml_reader.read(preset_path(source), source)
    return yaml_reader.read(_existing(source), str(source))


def preset_names() -> list[str]:
    """Return the names of the studies that come with the package, in alphabetical order."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the file of a preset, which is a good start for a study file of your own.

    Raises:
        ConfigError: There is no preset of that name.
    """
    names = preset_names()
    if name not in names:
        raise ConfigError([messages.one_line(f"{name}: no such preset; {messages.suggest(name, names)}")])
    return _PRESETS / f"{name}.yaml"


def _existing(source: str | Path) -> Path:
    path = Path(source)
    with suppress(OSError):
        if str(source) and path.exists():
            return path
    names = preset_names()
    close = messages.suggest(path.stem, names)
    hint = f"{close}; " if close.startswith("did") else ""
    shown = messages.one_line(str(source), 1000) or repr("")
    message = f"no such file or preset; {hint}presets are {', '.join(names)}"
    raise ConfigError([f"{shown}: {messages.one_line(message)}"])


_NO_MAPPING = "is not a mapping; write keys and values"
_ADVICE = {
    "float_type": "is not a number; write one such as 0.001 or 1e-7",
    "finite_number": "is not finite; write a number such as 0.001 or 1e-7",
    "bool_type": "is neither true nor false; write one of the two",
    "int_type": "is not a whole number; write one such as 3",
    "string_type": "is not text; write it in quotes",
    "dict_type": _NO_MAPPING,
    "model_type": _NO_MAPPING,
    "model_attributes_type": _NO_MAPPING,
}
"""By the type of pydantic's error: what is wrong with the value; what would be right."""
_EXAMPLES = {
    "name": "name: my-study",
    "workloads": "workloads: [digits-logreg]",
    "optimizers": "optimizers: [adam, adam-sgd, adam-adam]",
    "alpha0": "alpha0: [0.01, 0.001]",
    "use": "use: digits-logreg",
    "low": "low: 1e-5",
    "high": "high: 1.0",
}
_SECTIONS: dict[object, type[BaseModel]] = {
    "optimizers": OptimizerSection,
    "resources": Resources,
    "search": Search,
    "scheduler": Asha,
}
_SYNONYMS = {
    "lr": "alpha0",
    "learning_rate": "alpha0",
    "hypergrad_lr": "beta",
    "batch": "batch_size",
    "steps": "iterations",
    "cpu": "cpus",
    "gpu": "gpus",
}


def _place(error: ErrorDetails) -> yaml_reader.Loc:
    return tuple(part for part in error["loc"] if part not in TAGS)


def _advice(error: ErrorDetails) -> str:
    """Return a sentence for pydantic's error: what is wrong; what would be right."""
    kind, loc, context = error["type"], error["loc"], error.get("ctx", {})
    key = str(loc[-1]) if loc else ""
    match kind:
        case "value_error":
            return str(context["error"])
        case "missing":
            below = key not in ("use", "low", "high") and len(loc) > 1
            return f"missing; write e.g. {'name: adam-adam' if below else _EXAMPLES[key]}"
        case "extra_forbidden":
            section = _SECTIONS.get(loc[0], Study) if len(loc) > 1 else Study
            section = Range if "[range]" in loc else section
            known = [field.alias or name for name, field in section.model_fields.items()]
            return f"unknown key; {messages.suggest(_SYNONYMS.get(key, key), known)}"
        case "greater_than_equal" | "less_than_equal":
            return f"{messages.show(error['input'])} {_out_of_range(context)}"
        case _ if kind in _ADVICE:
            return f"{messages.show(error['input'])} {_ADVICE[kind]}"
    return error["msg"]


def _out_of_range(context: Mapping[str, float]) -> str:
    bound = context["ge"] if "ge" in context else context["le"]
    if bound == 0 and isinstance(bound, float):
        return "is negative; write 0 or more"
    kind, value = ("whole number", str(bound)) if isinstance(bound, int) else ("number", f"{bound:g}")
    right = f"from {value} upwards" if "ge" in context else f"up to {value}"
    return f"is out of range; write a {kind} {right}"
