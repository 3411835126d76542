"""The checks of convolution arguments: refusals, and the values in their messages."""

from __future__ import annotations

from typing import Any

import pytest

from lipnet.layers.arguments import check_convolution, check_groups, check_output_padding, pair, sizes

VALID: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 8,
    "kernel_size": 3,
    "stride": 1,
    "padding": "same",
    "dilation": 1,
    "padding_mode": "zeros",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"kernel_size": [1, 7], "padding": [0, 3]},
        {"stride": (2, 1)},
        {"dilation": (1, 1)},
        {"dilation": (2, 3), "dilated": True, "padding": (2, 3)},
        {"padding_mode": "circular"},
    ],
)
def test_valid_settings_pass(changes: dict[str, Any]) -> None:
    check_convolution(**{**VALID, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, r"channels must be at least 1, got 0 in, 8 out"),
        ({"out_channels": -1}, r"channels must be at least 1, got 4 in, -1 out"),
        ({"kernel_size": 2}, r"kernel_size must be odd, got 2"),
        ({"kernel_size": 0}, r"kernel_size must be odd, got 0"),
        ({"kernel_size": -3}, r"kernel_size must be odd, got -3"),
        ({"kernel_size": (3, 4)}, r"kernel_size must be odd, got \(3, 4\)"),
        ({"stride": 0}, r"stride must be positive, got 0"),
        ({"stride": (2, 0)}, r"stride must be positive, got \(2, 0\)"),
        ({"padding": "valid"}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 'valid'"),
        ({"padding": 0}, r"padding must be 'same', that is \(1, 1\) for kernel_size 3, got 0"),
        ({"padding": (1, 2)}, r"padding must be 'same', .*, got \(1, 2\)"),
        ({"kernel_size": (1, 3), "padding": 1}, r"that is \(0, 1\) for kernel_size \(1, 3\), got 1"),
        ({"dilation": 2}, r"dilation must be 1, got 2"),
        ({"dilation": (1, 2)}, r"dilation must be 1, got \(1, 2\)"),
        ({"dilation": 0, "dilated": True}, r"dilation must be positive, got 0"),
        ({"dilation": 2, "dilated": True, "padding": 1}, r"that is \(2, 2\) for kernel_size 3, got 1"),
        ({"padding_mode": "reflect"}, r"'zeros', 'circular'.*got 'reflect'"),
        ({"padding_mode": "replicate"}, r"'zeros', 'circular'.*got 'replicate'"),
    ],
)
def test_invalid_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_convolution(**{**VALID, **changes})


@pytest.mark.parametrize(("groups", "channels"), [(1, 3), (4, 8), (2, 6)])
def test_groups_divide_channels(groups: int, channels: int) -> None:
    check_groups(groups, {"channels": channels, "twice": 2 * channels})


@pytest.mark.parametrize(
    ("groups", "channels", "message"),
    [
        (3, {"a": 6, "2 a + b": 8}, r"groups must divide a = 6 and 2 a \+ b = 8, got 3"),
        (0, {"a": 6}, "groups must divide a = 6, got 0"),
        (-2, {"a": 6}, "groups must divide a = 6, got -2"),
        (1, {"a": 6, "b": 0}, "b must be positive, got 0"),
    ],
)
def test_groups_that_do_not_divide_channels_are_refused(groups: int, channels: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_groups(groups, channels)


@pytest.mark.parametrize(
    ("value", "dimensions", "expected"),
    [(3, 0, ()), (3, 1, (3,)), (3, 2, (3, 3)), ([5], 1, (5,)), ((1, 2), 2, (1, 2)), ([3, 1], 2, (3, 1))],
)
def test_sizes(value: int | list[int] | tuple[int, int], dimensions: int, expected: tuple[int, ...]) -> None:
    assert sizes(value, dimensions, "stride") == expected
    assert pair(value, dimensions, "stride") == (1, 1, *expected)[-2:]


@pytest.mark.parametrize(
    ("value", "dimensions", "message"),
    [
        ((1, 2), 1, r"stride must be an int or a sequence of one, got \(1, 2\)"),
        ((1, 2, 3), 2, r"stride must be an int or a sequence of 2, got \(1, 2, 3\)"),
        ([3], 2, r"stride must be an int or a sequence of 2, got \[3\]"),
        (3.0, 2, r"got 3\.0"),
        ("33", 2, r"got '33'"),
        (None, 1, r"got None"),
    ],
)
def test_sizes_of_another_form_are_refused(value: Any, dimensions: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sizes(value, dimensions, "stride")


def test_one_dimension_has_one_number_of_each() -> None:
    settings = {**VALID, "dimensions": 1}
    check_convolution(**settings)
    check_convolution(**{**settings, "kernel_size": (5,), "padding": (2,), "stride": (2,), "dilation": (1,)})
    for name, value in {"kernel_size": (1, 3), "stride": (1, 2), "padding": (0, 1), "dilation": (1, 1)}.items():
        with pytest.raises(ValueError, match=rf"{name} must be an int or a sequence of one, got \(\d, \d\)"):
            check_convolution(**{**settings, name: value})
    with pytest.raises(ValueError, match="padding must be 'same', that is 1 for kernel_size 3, got 0"):
        check_convolution(**{**settings, "padding": 0})


@pytest.mark.parametrize(("value", "dimensions"), [(1, 1), ((0, 1), 2), (-1, 2)])
def test_an_output_padding_is_refused(value: int | tuple[int, int], dimensions: int) -> None:
    check_output_padding(0, dimensions)
    with pytest.raises(ValueError, match="output_padding must be 0, "):
        check_output_padding(value, dimensions)
