"""Checks that a state fits the parameters that it is loaded for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def check_shapes(index: int, group: Mapping[str, Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Check the shapes of a group's state.

    Args:
        index: The group's index among the optimizer's groups, for the message.
        group: The group, with its T parameters, its options and, if α is learned, α and its state.
        states: The op's state of each of the T parameters.

    Raises:
        ValueError: A shape does not fit. The message names the parameter and the state.
    """
    params, names = group["params"], group.get("param_names")
    for place, (param, state) in enumerate(zip(params, states, strict=True)):
        for key, value in state.items():
            if key != "step" and isinstance(value, Tensor) and value.shape != param.shape:
                which = f"parameter {names[place]!r}" if names else f"parameter {place} of group {index}"
                raise ValueError(
                    f"{which} has shape {tuple(param.shape)}, but its {key!r} in the state has shape "
                    f"{tuple(value.shape)}: the state belongs to another model"
                )
    for key, tensor, shape in _of_alpha(group, len(params)):
        if tensor.shape != shape and not (key == "'lr'" and tensor.numel() == 1):
            raise ValueError(
                f"group {index} has {len(params)} parameters and granularity {group['granularity']!r}, but "
                f"its {key} in the state has shape {tuple(tensor.shape)}, not {shape}: the state belongs to "
                "another model"
            )


def _of_alpha(group: Mapping[str, Any], count: int) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """Yield the name, the tensor and the right shape of a learned α, its h, lop's state and moves."""
    if group.get("lop") is None:
        return
    one_each = (count,)
    of_alpha = one_each if group["granularity"] == "tensor" else ()
    of_rule = () if group["granularity"] == "group" else one_each
    values = [("'lr'", group.get("lr"), of_alpha), ("'hypergradient'", group.get("hypergradient"), of_alpha)]
    for part, shape in (("lop_state", of_rule), ("moves", one_each)):
        values += [(f"{part}[{key!r}]", value, shape) for key, value in group.get(part, {}).items()]
    for key, value, shape in values:
        if isinstance(value, Tensor):
            yield key, value, shape
