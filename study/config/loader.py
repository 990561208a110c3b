"""What a researcher writes down: the study file, checked whole and turned into trials.

:func:`load_study` reads one from YAML; everything wrong with it is reported at once, one line per problem,
in :class:`ConfigError`. Nothing here imports torch, Ray or MLflow.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.config import messages, yaml_reader
from study.config.optimizer_name import LOPS, OPS, OPTIMIZERS
from study.config.sections import (
    RANGE,
    RATES,
    Asha,
    OptimizerSection,
    Range,
    Resources,
    Search,
    WorkloadSection,
)
from study.config.study import MAX_TRIALS, Study
from study.config.trial import Trial
from study.config.yaml_reader import ConfigError

__all__ = [
    "LOPS",
    "MAX_TRIALS",
    "OPS",
    "OPTIMIZERS",
    "ConfigError",
    "OptimizerSection",
    "Resources",
    "Study",
    "Trial",
    "WorkloadSection",
    "load_study",
    "preset_names",
    "preset_path",
]


def load_study(source: str | Path) -> Study:
    """Reads and validates a study.

    Args:
        source: a preset's name, or the path of a YAML file (always a path if it is a ``Path``).

    Raises:
        ConfigError: with all that is wrong, one line per problem.
    """
    if isinstance(source, str) and source in preset_names():
        document = yaml_reader.read(preset_path(source), source)
    else:
        document = yaml_reader.read(_existing(source), str(source))
    if not isinstance(document.value, dict):
        shown = messages.show(document.value)
        raise document.error([((), f"the file holds {shown}; write a mapping such as name: my-study")])
    try:
        study = Study.model_validate(document.value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        raise document.error((_loc(d), _message(d)) for d in details) from None
    if document.problems:
        raise document.error(())
    return study


def preset_names() -> list[str]:
    """The studies that come with the package, in alphabetical order."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset; a good start for one's own.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in preset_names():
        raise ConfigError(
            [messages.one_line(f"{name}: no such preset; {messages.suggest(name, preset_names())}")]
        )
    return _PRESETS / f"{name}.yaml"


_PRESETS = Path(__file__).parent / "presets"

_EXAMPLES = {
    "name": "name: my-study",
    "workloads": "workloads: [digits-logreg]",
    "optimizers": "optimizers: [adam, adam-sgd, adam-adam]",
    "alpha0": "alpha0: [0.01, 0.001]",
    "use": "use: digits-logreg",
    "low": "low: 1e-5",
    "high": "high: 1.0",
}


def _existing(source: str | Path) -> Path:
    path = Path(source)
    try:
        found = path.exists()
    except OSError:
        found = False
    if not found or not str(source):
        names = preset_names()
        close = messages.suggest(path.stem, names) if str(source) else ""
        hint = f"{close}; " if close.startswith("did") else ""
        message = f"no such file or preset; {hint}presets are {', '.join(names)}"
        raise ConfigError(
            [f"{messages.one_line(str(source), 1000) or repr('')}: {messages.one_line(message)}"]
        )
    return path


def _loc(error: ErrorDetails) -> yaml_reader.Loc:
    return tuple(part for part in error["loc"] if part not in ("[key]", RATES, RANGE))


def _message(error: ErrorDetails) -> str:
    """pydantic's error as what is wrong and what would be right."""
    key = str(error["loc"][-1]) if error["loc"] else ""
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "missing":
            below = key not in ("use", "low", "high") and len(error["loc"]) > 1
            example = "name: adam-adam" if below else _EXAMPLES[key]
            return f"missing; write e.g. {example}"
        case "extra_forbidden":
            model = Range if RANGE in error["loc"] else _MODELS.get(error["loc"][0], Study)
            model = model if len(error["loc"]) > 1 else Study
            known = [field.alias or name for name, field in model.model_fields.items()]
            return f"unknown key; {messages.suggest(_SYNONYMS.get(key, key), known)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return f"{messages.show(error['input'])} is not a mapping; write keys and values"
    return error["msg"]


_MODELS: dict[object, type[BaseModel]] = {
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
