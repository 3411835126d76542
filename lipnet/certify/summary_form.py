"""The form of summary.json: which entries it has, and the kinds of their values."""

from collections.abc import Iterator, Mapping
from math import isfinite
from types import NoneType
from typing import Any

_ANY = "*"
_NUMBER, _MAYBE = (int, float), (int, float, NoneType)
_SHARES = {_ANY: _NUMBER}
_LAYER = {
    "path": str,
    "kind": str,
    "input_shape": [int],
    "constant": _MAYBE,
    "engine": (str, NoneType),
    "norm_bound": _MAYBE,
    "degree": (int, NoneType),
    "interval": _MAYBE,
    "rounding": _MAYBE,
}
_FORM: dict[str, Any] = {
    "average_certified_radius": _MAYBE,
    "certified_accuracy": _SHARES,
    "clean_accuracy": _NUMBER,
    "layers": [_LAYER],
    "lipschitz_bound": _NUMBER,
    "n_samples": int,
    "parameters": int,
    "rounding": {"covered": bool},
}
_COVERED = {
    "logits": _MAYBE,
    "radius": _MAYBE,
    "measured": {"images": int, "float64": _MAYBE, "float32": _MAYBE, "float32_predictions": int},
}
_ATTACK = {"method": str, "settings": dict}
_VIOLATION = {**_ATTACK, "violation": str, "file": (str, NoneType)}
_RESULTS = {
    **_ATTACK,
    "n_samples": int,
    "accuracy": {_ANY: {"certified": float, "under_attack": float, "clean": float}},
    "n_certified": int,
    "flipped": {_ANY: (float, NoneType)},
    "unconfirmed": int,
    "wall_seconds": float,
}


def wrong_entries(summary: Mapping[str, Any]) -> list[str]:
    """Return the places of entries that are missing or of another kind than `lipnet.certify` writes.

    Example:
        >>> wrong_entries({"rounding": {"covered": 1}})[-2:]
        ['parameters', 'rounding.covered']
    """
    wrong = list(_wrong(summary, _FORM, ""))
    rounding = summary.get("rounding")
    if isinstance(rounding, dict) and rounding.get("covered") is True:
        wrong += _wrong(rounding, _COVERED, "rounding")
    if "attack" in summary:
        wrong += wrong_attack_entries(summary["attack"])
    if not isinstance(summary.get("classes"), list | NoneType):
        wrong.append("classes")
    return wrong


def wrong_attack_entries(attack: Any) -> list[str]:
    """Return the places in a summary's entry ``attack`` that are missing, unknown, or of another kind than written."""
    found = isinstance(attack, dict) and "violation" in attack
    return list(_wrong(attack, _VIOLATION if found else _RESULTS, "attack", exact=True))


def _wrong(value: Any, form: Any, place: str, exact: bool = False) -> Iterator[str]:
    """Yield the places where a JSON value is not of a form: a kind, a list of one form, or forms by name.

    With ``exact``, further names are wrong, too.
    """
    if isinstance(form, dict):
        if not isinstance(value, dict):
            yield place
            return
        forms = dict.fromkeys(value, form[_ANY]) if _ANY in form else form
        for name, inner in forms.items():
            path = f"{place}.{name}".lstrip(".")
            yield from _wrong(value[name], inner, path, exact) if name in value else [path]
        if exact:
            yield from (f"{place}.{name}" for name in value if name not in forms)
    elif isinstance(form, list):
        if not isinstance(value, list):
            yield place
            return
        for number, each in enumerate(value):
            yield from _wrong(each, form[0], f"{place}[{number}]")
    else:
        kinds = form if isinstance(form, tuple) else (form,)
        # JSON's true is not the number 1, and NaN is no number.
        strange = isinstance(value, bool) and bool not in kinds
        if not isinstance(value, kinds) or strange or (isinstance(value, float) and not isfinite(value)):
            yield place
