"""All optimizers by their names, and ``create``, which makes one by its name.

Pickles of whole optimizers that version 0.1 wrote look for ``SGD`` and ``Adam`` here.
"""

from __future__ import annotations

import difflib
from typing import Any

from torch.optim.optimizer import ParamsT

from hypergrad import _validation
from hypergrad._adam import Adam, AdamW
from hypergrad._muon import Muon
from hypergrad._sgd import SGD

NAMES: tuple[str, ...] = tuple(
    op if lop is None else f"{op}-{lop}" for op in _validation.OPS for lop in _validation.LOPS
)
"""The names that ``create`` takes: ``"{op}"`` for a fixed learning rate, ``"{op}-{lop}"`` for a learned."""


def create(name: str, params: ParamsT, **arguments: Any) -> SGD | Adam | Muon:
    """Make an optimizer by its name, with the papers' rule unless ``rule`` is given.

    Args:
        name: A name in ``NAMES``: ``"{op}-{lop}"``, such as ``"adam-adam"``, or ``"{op}"`` for a fixed
            learning rate. Op ``"sgdn"`` is ``SGD`` with ``momentum=0.9, nesterov=True`` unless ``arguments``
            say otherwise.
        params: The parameters, as tensors, (name, tensor) pairs or dicts of groups, as for ``torch.optim``.
        **arguments: Further arguments of the class, except ``lop``. ``rule`` is by default ``"additive"``,
            the papers' rule.

    Returns:
        An optimizer of class ``SGD``, ``Adam``, ``AdamW`` or ``Muon``.

    Raises:
        ValueError: The name is not in ``NAMES``, or an option is unknown, out of range or not a number.
        TypeError: The optimizer does not have an option.

    Example:
        >>> import torch
        >>> import hypergrad
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = hypergrad.create("sgdn-adam", model.parameters(), lr=0.01, hypergrad_lr=1e-4)
        >>> group = optimizer.param_groups[0]
        >>> group["momentum"], group["lop"], group["rule"]
        (0.9, 'adam', 'additive')
    """
    if name not in NAMES:
        nearest = difflib.get_close_matches(str(name).lower().replace("_", "-"), NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(f"no optimizer {name!r}: did you mean {nearest!r}? There are {', '.join(NAMES)}")
    op, _, lop = name.partition("-")
    arguments = {"rule": "additive"} | arguments
    for of_op, kind in (("adam", Adam), ("adamw", AdamW), ("muon", Muon)):
        if op == of_op:
            return kind(params, lop=lop or None, **arguments)
    if op == "sgdn":
        arguments = {"momentum": 0.9, "nesterov": True} | arguments
    return SGD(params, lop=lop or None, **arguments)
