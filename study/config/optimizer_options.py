"""The options of an optimizer that a study file may set, and why it may not set others."""

from __future__ import annotations

from study.config.messages import show, suggest
from study.config.optimizer_name import LOPS, OptimizerName, is_dotted

OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("op", ("sgdn", "muon")),
    "betas": ("op", ("adam", "adamw", "muon")),
    "eps": ("op", ("adam", "adamw", "muon")),
    "decoupled_weight_decay": ("op", ("sgd", "sgdn", "adam")),
    "lop_momentum": ("lop", ("sgdn",)),
    "lop_betas": ("lop", ("adam", "lion")),
    "lop_eps": ("lop", ("adam", "adagrad")),
    "trace_decay": ("lop", LOPS),
    "max_relative_step": ("lop", LOPS),
    "first_relative_step": ("lop", LOPS),
    "lr_bounds": ("lop", LOPS),
}
"""Options of ``hypergrad.create`` for which a study file has no key, and the ops or lops that have them."""

OF_VERSION_0_1 = ("multiplicative", "normalize")
"""Options by which version 0.1 set the rule. Its studies' files and keys have them, so they stay."""
OPTIONS |= dict.fromkeys(OF_VERSION_0_1, ("lop", LOPS))

ELSEWHERE = {
    "lr": "alpha0",
    "hypergrad_lr": "beta",
    "weight_decay": "the study's weight_decay",
    "granularity": "the optimizer's granularity",
    "lop": "the optimizer's name",
    "rule": "the optimizer's rule",
    "nesterov": "the optimizer's name",
}
"""Arguments of ``hypergrad.create`` that are no options, and the keys of a study file that set them."""


def misfit(option: str, value: object, optimizer: str) -> str | None:
    """Return why an optimizer cannot have this value of an option; ``None`` if it can, as far as known."""
    if is_dotted(optimizer):
        return f"not an option here; set it by {ELSEWHERE['lr']}" if option == "lr" else None
    if option in ELSEWHERE:
        return f"not an option here; set it by {ELSEWHERE[option]}"
    if option not in OPTIONS:
        return f"unknown option; {suggest(option, OPTIONS)}"
    part, names = OPTIONS[option]
    if getattr(OptimizerName.parse(optimizer), part) not in names:
        return f"{optimizer} does not use it; it is for {part} {' or '.join(names)}"
    return f"{show(value)} is not a number; write one such as 0.9" if isinstance(value, str) else None
