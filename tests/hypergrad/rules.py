"""What the tests know of each rate rule: one row per rule, to which a new rule adds its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypergrad import rates


@dataclass(frozen=True)
class Rule:
    """A row.

    Attributes:
        rate: the rule with its defaults.
        other: the same with other options, if it has any.
        by_hand: α_t for h = 0, −2, 2, 1 with β = 0.1 and α₀ = 1.
        beta: by op, for ``conftest.Problem``: α moves by a tenth or more within 50 steps.
        multiplicative, additive_cosine, cosine: β there with these rules, whatever the op.
        finds: by problem and op of ``test_convergence``, β with which the additive rule makes up for an α₀
            that is wrong by 100 ×.
        cosine_finds: β with which the cosine does on all problems and with all ops, ``exceptions`` apart.
    """

    rate: rates.Rate
    other: rates.Rate
    by_hand: list[float]
    beta: dict[str, float]
    multiplicative: float
    additive_cosine: float
    cosine: float
    finds: dict[tuple[str, str], float]
    cosine_finds: float
    exceptions: dict[tuple[str, str], float] = field(default_factory=dict)


def _algorithm_1() -> list[float]:
    # v = 0, −2, −1.8 + 2 = 0.2, 0.18 + 1 = 1.18, and α − 0.1(h + 0.9v)
    second = 1 + 0.1 * (2 + 0.9 * 2)
    third = second - 0.1 * (2 + 0.9 * 0.2)
    return [1.0, second, third, third - 0.1 * (1 + 0.9 * 1.18)]


def _algorithm_2() -> list[float]:
    # t = 2: m = 0.1·(−2) = −0.2, m̂ = −0.2/(1 − 0.81); v = 0.001·4 = 0.004, v̂ = 0.004/(1 − 0.998001)
    # t = 3: m = 0.9·(−0.2) + 0.1·2 = 0.02, m̂ = 0.02/(1 − 0.729)
    #        v = 0.999·0.004 + 0.001·4 = 0.007996, v̂ = 0.007996/(1 − 0.997002999)
    # t = 4: m = 0.9·0.02 + 0.1·1 = 0.118, m̂ = 0.118/(1 − 0.6561)
    #        v = 0.999·0.007996 + 0.001·1 = 0.008988004, v̂ = 0.008988004/(1 − 0.996005996001)
    second = 1 - 0.1 * (-0.2 / 0.19) / (math.sqrt(0.004 / 0.001999) + 1e-8)
    third = second - 0.1 * (0.02 / 0.271) / (math.sqrt(0.007996 / 0.002997001) + 1e-8)
    fourth = third - 0.1 * (0.118 / 0.3439) / (math.sqrt(0.008988004 / 0.003994003999) + 1e-8)
    return [1.0, second, third, fourth]


def _adagrad() -> list[float]:
    # v = 0, 4, 8, 9
    second = 1 + 0.1 * 2 / (2 + 1e-8)
    third = second - 0.1 * 2 / (math.sqrt(8) + 1e-8)
    return [1.0, second, third, third - 0.1 / (3 + 1e-8)]


RULES = {
    "sgd": Rule(
        rates.SGD(),
        rates.SGD(),
        by_hand=[1.0, 1.2, 1.0, 0.9],
        beta={"sgd": 1e-3, "sgdn": 5e-5, "adam": 1e-5},
        multiplicative=1.0,
        additive_cosine=1e-4,
        cosine=0.02,
        finds={
            ("quadratic", "sgd"): 1e-5,
            ("quadratic", "sgdn"): 3e-6,
            ("quadratic", "adam"): 3e-4,
            ("rosenbrock", "sgd"): 1.2e-8,
            ("rosenbrock", "sgdn"): 2.4e-9,
            ("rosenbrock", "adam"): 2.4e-4,
        },
        cosine_finds=0.2,
    ),
    "sgdn": Rule(
        rates.SGDN(),
        rates.SGDN(0.8),
        by_hand=_algorithm_1(),
        beta={"sgd": 2e-4, "sgdn": 5e-6, "adam": 2e-6},
        multiplicative=0.3,
        additive_cosine=2e-5,
        cosine=0.005,
        finds={
            ("quadratic", "sgd"): 6e-7,
            ("quadratic", "sgdn"): 3e-7,
            ("quadratic", "adam"): 1e-6,
            ("rosenbrock", "sgd"): 8e-10,
            ("rosenbrock", "sgdn"): 7e-10,
            ("rosenbrock", "adam"): 1.8e-5,
        },
        cosine_finds=0.03,
    ),
    "adam": Rule(
        rates.Adam(),
        rates.Adam((0.8, 0.9), 1e-6),
        by_hand=_algorithm_2(),
        beta={"sgd": 1e-3, "sgdn": 2e-4, "adam": 2e-4},
        multiplicative=0.02,
        additive_cosine=2e-4,
        cosine=0.02,
        finds={
            ("quadratic", "sgd"): 3e-3,
            ("quadratic", "sgdn"): 0.02,
            ("quadratic", "adam"): 0.02,
            ("rosenbrock", "sgd"): 1.8e-4,
            ("rosenbrock", "sgdn"): 4e-4,
            ("rosenbrock", "adam"): 0.056,
        },
        cosine_finds=0.3,
        # Its steps have a size of their own: the quadratic needs 0.05 or more, the regression 0.03 or less.
        exceptions={("quadratic", "sgd"): 0.1, ("logistic", "sgd"): 0.02},
    ),
    "adagrad": Rule(
        rates.AdaGrad(),
        rates.AdaGrad(1e-6),
        by_hand=_adagrad(),
        beta={"sgd": 1e-3, "sgdn": 2e-4, "adam": 2e-4},
        multiplicative=0.02,
        additive_cosine=2e-4,
        cosine=0.02,
        finds={
            ("quadratic", "sgd"): 0.03,
            ("quadratic", "sgdn"): 0.01,
            ("quadratic", "adam"): 6e-3,
            ("rosenbrock", "sgd"): 1.8e-3,
            ("rosenbrock", "sgdn"): 1.3e-3,
            ("rosenbrock", "adam"): 0.3,
        },
        cosine_finds=1.5,
    ),
    "lion": Rule(
        rates.Lion(),
        rates.Lion((0.8, 0.9)),
        # m = 0, −0.02, 0.0002, …; 0.9m + 0.1h = −0.2, then 0.9·(−0.02) + 0.2 > 0, then 0.9·0.0002 + 0.1 > 0
        by_hand=[1.0, 1.1, 1.0, 0.9],
        beta={"sgd": 5e-4, "sgdn": 1e-4, "adam": 1e-4},
        multiplicative=0.01,
        additive_cosine=1e-4,
        cosine=0.01,
        finds={
            ("quadratic", "sgd"): 1e-4,
            ("quadratic", "sgdn"): 6e-5,
            ("quadratic", "adam"): 6e-4,
            ("rosenbrock", "sgd"): 3e-6,
            ("rosenbrock", "sgdn"): 6e-7,
            ("rosenbrock", "adam"): 1.3e-4,
        },
        cosine_finds=0.2,
    ),
}
