"""Numbers as pages write them."""

import math

import pytest

from study.analysis import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00123456, "0.00123"),
        (9.99999975e-05, "0.000100"),  # float32(1e-4)
        (1.2345e-7, "1.23e−07"),
        (-0.05, "−0.0500"),
        (12.345, "12.3"),
        (123456, "123456"),
        (2.5e7, "2.5e+07"),
        (0.9996, "1.00"),
        (0, "0"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert formatting.format_number(value) == text


def test_what_was_not_reached_is_no_number():
    assert formatting.format_iterations(math.inf, 9380) == "> 9380"
    assert formatting.format_iterations(math.inf, math.nan) == "not reached"
    assert formatting.format_iterations(math.nan, 9380) == "–"
    assert formatting.format_iterations(12.5, 9380) == "12.5"


def test_long_lists_say_how_much_they_leave_out():
    assert formatting.join_names(list("abcd"), most=2) == "a, b and 2 more"
    assert formatting.join_names(list("ab"), most=2) == "a, b"
