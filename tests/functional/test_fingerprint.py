"""Fingerprints: other texts for other values, and equal ones for equal values in every process."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import os
import re
import subprocess
import sys
import threading
from collections import OrderedDict, defaultdict
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.functional.fingerprint import class_fingerprint, fingerprint


class Mode(enum.Enum):
    SOFT = 1
    HARD = 2


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


@dataclasses.dataclass
class Settings:
    value: Any

    def scaled(self, x: float) -> float:
        return x * self.value


def scaling(factor: float) -> Any:
    return lambda x: x * factor


class Lengths(list[float]):
    unit = ""


class Pair(NamedTuple):
    first: int
    second: int


def with_unit(lengths: Lengths, unit: str) -> Lengths:
    lengths.unit = unit
    return lengths


def _guarded(x: float) -> float:
    try:
        y = 1 / x
        z = 1 / y
    except ZeroDivisionError:
        z = 0.0
    return z


def _half_guarded(x: float) -> float:
    try:
        y = 1 / x
    except ZeroDivisionError:
        z = 0.0
    else:
        z = 1 / y
    return z


def named(function: Any, name: str) -> Any:
    """Rename a function and its code, so that only the instructions differ."""
    function.__qualname__ = name
    return function


guarded, half_guarded = named(_guarded, "guarded"), named(_half_guarded, "guarded")


def array(last: float, count: int = 2000) -> np.ndarray[Any, Any]:
    return np.append(np.zeros(count), last)


PAIRS: dict[str, tuple[Any, Any]] = {
    "number": (1.0, 2.0),
    "kind of number": (1, True),
    "sign of zero": (0.0, -0.0),
    "mapping": ({"a": 1}, {"a": 2}),
    "nested": ([{"a": (1, [2])}], [{"a": (1, [3])}]),
    "set": ({"a", "b"}, {"a", "c"}),
    "enumeration": (Mode.SOFT, Mode.HARD),
    "partial": (functools.partial(pow, exp=2), functools.partial(pow, exp=3)),
    "code": (lambda x: x, lambda x: x + 1),
    "constant in the code": (lambda x: x + 1, lambda x: x + 2),
    "closure": (scaling(1.0), scaling(2.0)),
    "method": (Settings(1.0).scaled, Settings(2.0).scaled),
    "array": (array(1.0), array(2.0)),
    "number of numpy": (np.float32(1), np.float32(2)),
    "tensor": (torch.zeros(3), torch.ones(3)),
    "list of tensors": ([torch.zeros(3)], [torch.zeros(4)]),
    "extent of a try block": (guarded, half_guarded),
    "factory of missing entries": (defaultdict(int, a=1), defaultdict(float, a=1)),
    "entry of a subclass": (OrderedDict(a=1), OrderedDict(a=2)),
    "attribute of a list": (with_unit(Lengths([1]), "m"), with_unit(Lengths([1]), "km")),
    "named tuple": (Pair(1, 2), Pair(1, 3)),
    "pattern": (re.compile("a"), re.compile("b")),
    "fraction": (Fraction(1, 2), Fraction(1, 3)),
    "slots": (Slotted(1.0), Slotted(2.0)),
    "dataclass": (Settings(1.0), Settings(2.0)),
    "module": ([nn.LeakyReLU(0.1)], [nn.LeakyReLU(0.2)]),
    "class": (int, float),
    "generator": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_values_have_other_texts(name: str) -> None:
    one, other = PAIRS[name]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)
    if name != "generator":
        assert fingerprint(copy.deepcopy(one)) == fingerprint(one)


def test_the_text_is_the_same_in_every_process() -> None:
    """Hash seeds change the order of sets, and addresses change anyway."""
    program = (
        "import torch; from torch import nn; from lipnet.functional.fingerprint import fingerprint\n"
        "value = [{'b', 'a', 'c', 'd'}, nn.Conv2d(1, 1, 1, padding_mode='circular').stride, lambda x: x + 1, object]\n"
        "print(fingerprint(value))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


def test_a_value_that_contains_itself() -> None:
    one: list[Any] = [1.0]
    other: list[Any] = [2.0]
    one.append(one)
    other.append(other)
    assert fingerprint(one) != fingerprint(other)


def test_what_pickle_refuses_counts_as_its_type() -> None:
    assert fingerprint(threading.Lock()) == fingerprint(threading.Lock()) != fingerprint(threading.Event)


def test_classes_differ_by_the_code_of_their_methods() -> None:
    def make(slope: float) -> type[nn.Module]:
        class Own(nn.ReLU):
            """Its documentation does not count."""

            factor = 1.0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) * slope

        return Own

    one, other = make(1.0), make(2.0)
    libraries = ("torch.",)
    assert class_fingerprint(one, libraries) != class_fingerprint(other, libraries)
    assert class_fingerprint(one, libraries) == class_fingerprint(make(1.0), libraries)
    before = class_fingerprint(one, libraries)
    copy.copy(one())
    one.__doc__ = "Another text."
    assert class_fingerprint(one, libraries) == before
    one.factor = 2.0  # type: ignore[attr-defined]
    assert class_fingerprint(one, libraries) != before
