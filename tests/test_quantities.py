"""Bytes and seconds as text."""

import pytest

from onnxq.quantities import duration, size_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 us"),
        (9.996e-6, "10.0 us"),
        (0.0999, "99.9 ms"),
        (99.96, "100 s"),
        (1e4, "10,000 s"),
    ],
)
def test_durations_keep_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (0, "0 bytes"), (1000, "1.0 kB"), (9.96e6, "10.0 MB"), (5e12, "5,000.0 GB")],
)
def test_sizes_have_the_unit_that_suits_them(size: float | None, text: str) -> None:
    assert size_text(size) == text
