"""Names of optimizers come apart into op and lop as the paper writes them."""

import pytest

import hypergrad
from study.config.optimizer_name import LOPS, OPS, OPTIMIZERS, OptimizerName


@pytest.mark.parametrize(
    ("text", "op", "lop"),
    [
        ("sgd", "sgd", None),
        ("sgdn-sgd", "sgdn", "sgd"),
        ("adam-adagrad", "adam", "adagrad"),
        ("torch.optim.AdamW", "torch.optim.AdamW", None),
        ("adam cosine", "adam cosine", None),
        ("home-made", "home-made", None),
        ("adam-", "adam", None),
    ],
)
def test_parts(text, op, lop):
    name = OptimizerName.parse(text)
    assert (name.op, name.lop, name.learned) == (op, lop, lop is not None)


def test_every_name_is_an_op_alone_or_with_a_lop():
    assert OPTIMIZERS == hypergrad.NAMES
    assert [str(OptimizerName.parse(name)) for name in OPTIMIZERS] == list(OPTIMIZERS)
    assert sum(OptimizerName.parse(name).learned for name in OPTIMIZERS) == len(OPS) * len(LOPS)
