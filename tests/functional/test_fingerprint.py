"""Fingerprints: other texts for other values, and equal ones for equal values in every process."""

from __future__ import annotations

import contextvars
import copy
import dataclasses
import enum
import functools
import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import types
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from lipnet.functional.fingerprint import fingerprint, is_known


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


class Hiding:
    """Pickle writes no value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Renewed(Slotted):
    __slots__ = ()

    def __reduce__(self) -> Any:
        return Renewed, (0.0,)


class Refusing:
    def __reduce__(self) -> Any:
        raise pickle.PickleError("as functions of TorchScript do")


class Pair(NamedTuple):
    first: int
    second: int


def with_unit(value: Any, unit: str) -> Any:
    value.unit = unit
    return value


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


def once(x: float) -> float:
    return x


def twice(x: float) -> float:
    return 2 * x


named(twice, "once")


def with_scale(scale: float) -> Any:
    def function(x: float) -> float:
        return x * function.scale  # type: ignore[attr-defined, no-any-return]

    function.scale = scale  # type: ignore[attr-defined]
    return function


def local_class(function: Any) -> Any:
    return type("Local", (), {"apply": function})


def masked(mask: int) -> Any:
    return np.ma.array([1.0, 2.0], mask=[mask, 1 - mask])


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
    "what pickle leaves out": (Hiding(1.0), Hiding(2.0)),
    "slots that pickle leaves out": (Renewed(1.0), Renewed(2.0)),
    "dataclass": (Settings(1.0), Settings(2.0)),
    "module": ([nn.LeakyReLU(0.1)], [nn.LeakyReLU(0.2)]),
    "class": (int, float),
    "method of a mapping": ({0: 1.0}.get, {0: 2.0}.get),
    "method of a list": ([1.0].__getitem__, [2.0].__getitem__),
    "method of a tensor": (torch.tensor(1.0).mul, torch.tensor(2.0).mul),
    "method of an array": (array(1.0).take, array(2.0).take),
    "partial of a method": (functools.partial({0: 1}.get), functools.partial({0: 2}.get)),
    "function with a cache": (functools.lru_cache(once), functools.lru_cache(twice)),
    "size of a cache": (functools.lru_cache(2)(once), functools.lru_cache(3)(once)),
    "partial method": (functools.partialmethod(once), functools.partialmethod(twice)),
    "attribute of a function": (with_scale(1.0), with_scale(2.0)),
    "names of parameters": (lambda a, b: a - b, lambda b, a: b - a),
    "deleter": (property(fdel=once), property(fdel=twice)),
    "view of a mapping": (types.MappingProxyType({0: 1}), types.MappingProxyType({0: 2})),
    "masked array": (masked(0), masked(1)),
    "array of objects": (np.array([1, None]), np.array([2, None])),
    "sparse tensor": (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
    "meta tensor": (torch.zeros(2, device="meta"), torch.zeros(3, device="meta")),
    "attribute of a tensor": (with_unit(torch.zeros(1), "m"), with_unit(torch.zeros(1), "km")),
    "local class": (local_class(once), local_class(twice)),
    "object of a local class": (local_class(once)(), local_class(twice)()),
    "base of a local class": (type("Below", (local_class(once),), {}), type("Below", (local_class(twice),), {})),
    "special method": (
        type("Local", (), {"__call__": functools.partialmethod(once)}),
        type("Local", (), {"__call__": functools.partialmethod(twice)}),
    ),
    "generator": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_other_values_have_other_texts(name: str) -> None:
    one, other = PAIRS[name]
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(one)
    assert is_known(fingerprint(one))
    # copy.deepcopy refuses views, and makes other objects of classes that hide their content.
    if name not in ("generator", "view of a mapping", "what pickle leaves out", "slots that pickle leaves out"):
        assert fingerprint(copy.deepcopy(one)) == fingerprint(one)


def test_the_text_is_the_same_in_every_process() -> None:
    """Hash seeds change the order of sets, and addresses change anyway."""
    program = (
        "import torch; from torch import nn; from lipnet.functional.fingerprint import fingerprint\n"
        "import enum\n"
        "class Mode(enum.Enum):\n"
        "    SOFT, HARD = 1, 2\n"
        "sets = [{'b', 'a', 'c', 'd'}, {Mode.SOFT, Mode.HARD}, [lambda x: x in {'b', 'a', 'c', 'd'}]]\n"
        "value = [sets, nn.Conv2d(1, 1, 1, padding_mode='circular').stride, lambda x: x + 1, object]\n"
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


UNKNOWN: dict[str, Any] = {
    "generator": (i for i in [1]),
    "view of memory": memoryview(b"a"),
    "function of numpy": np.frompyfunc(once, 1, 1),
    "context variable": contextvars.ContextVar("a", default=1),
    "refusal": Refusing(),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_content_that_pickle_refuses_is_comparable_in_one_process_alone(name: str) -> None:
    value = UNKNOWN[name]
    assert fingerprint(value) == fingerprint(value)
    for text in (fingerprint([value]), fingerprint(type("Local", (), {"value": value}))):
        assert not is_known(text)
        assert text.count("unknown") == 1


def test_other_processes_have_other_texts_of_content_that_pickle_refuses() -> None:
    program = "from lipnet.functional.fingerprint import fingerprint, _UNKNOWN; print(_UNKNOWN)"
    command = [sys.executable, "-c", program]
    one, other = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    assert one != other


def test_locks_have_no_content() -> None:
    assert fingerprint(threading.Lock()) == fingerprint(threading.Lock()) != fingerprint(threading.RLock())


def test_classes_differ_by_the_code_of_their_methods() -> None:
    def make(slope: float) -> type[nn.Module]:
        class Own(nn.ReLU):
            """Its documentation counts, as that of its methods does: a method may read it."""

            factor = 1.0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) * slope

        return Own

    one, other = make(1.0), make(2.0)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(make(1.0))
    before = fingerprint(one)
    copy.copy(one())
    assert fingerprint(one) == before
    text, one.__doc__ = one.__doc__, "Another text."
    assert fingerprint(one) != before
    one.__doc__ = text
    assert fingerprint(one) == before
    one.factor = 2.0  # type: ignore[attr-defined]
    assert fingerprint(one) != before


@pytest.mark.parametrize("name", ["sndhdr", "nturl2path"])
def test_a_module_with_the_name_of_one_of_python_counts_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert name in sys.stdlib_module_names
    monkeypatch.syspath_prepend(tmp_path)
    texts = []
    for number in (1, 2):
        (tmp_path / f"{name}.py").write_text(f"class Own:\n    def apply(self, x): return {number} * x\n")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, name, raising=False)
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        texts.append(fingerprint(importlib.import_module(name).Own))
        monkeypatch.delitem(sys.modules, name)
    assert texts[0] != texts[1]
    assert fingerprint(Fraction) == "fractions.Fraction"
