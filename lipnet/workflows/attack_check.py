"""Compare what a summary.json says about an attack with the certificates, and with itself."""

from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Any

from torch import Tensor

from lipnet.certify.files import Row
from lipnet.certify.report import radii_of
from lipnet.certify.summary_form import wrong_attack_entries
from lipnet.functional.margins import parse_radius


def attack_problems(attack: Any, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the claims about an attack that the certificates, or its other claims, refute.

    Args:
        attack: the entry ``attack`` of a summary.
        rows: the certificates, in the order of the file.
    """
    wrong = wrong_attack_entries(attack)
    if wrong:
        yield f"missing, unknown or wrong entries: {', '.join(wrong[:5])}"
    elif "violation" in attack:
        yield f"a violated certificate: {attack['violation']}"
    else:
        try:
            yield from _figure_problems(attack, rows)
        except ValueError as error:
            yield f"an attack that cannot be read ({error})"


def _figure_problems(attack: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[str]:
    """Yield the claims of an attack without a violation that do not hold, see `attack_problems`.

    Raises:
        ValueError: for radii or factors that are no numbers.
    """
    count = attack["n_samples"]
    radius, correct = radii_of(rows[: max(0, count)])
    if count < 1 or len(radius) != count or attack["n_certified"] != int((radius > 0).sum()):
        yield "an attack on another number of certificates"
        return
    if not attack["accuracy"]:
        yield "an attack without accuracies"
    if attack["unconfirmed"] < 0 or attack["wall_seconds"] < 0:
        yield "a negative number of predictions or seconds of an attack"
    clean = int(correct.sum())
    for text, shares in attack["accuracy"].items():
        certified = int((correct & (radius > parse_radius(text))).sum())
        if (shares["certified"], shares["clean"]) != (certified / count, clean / count):
            yield f"other accuracies at {text} beside the attack than the file has"
        if not certified / count <= shares["under_attack"] <= clean / count:
            yield f"an accuracy under attack at {text} that is not between the certified and the clean one"
    accuracies = {parse_radius(text): shares["under_attack"] for text, shares in attack["accuracy"].items()}
    in_order = [accuracies[r] for r in sorted(accuracies)]
    if in_order != sorted(in_order, reverse=True):
        yield "an accuracy under attack that rises with the radius"
    yield from _flip_problems(attack["flipped"], attack["n_certified"])
    flipped = {float(text): share for text, share in attack["flipped"].items() if share is not None}
    pairs = [(share, count) for share in in_order] + [(share, attack["n_certified"]) for share in flipped.values()]
    if any(share != round(share * of) / of for share, of in pairs):
        yield "shares of an attack that are no whole numbers of images"
    robust = {r: round(share * count) for r, share in accuracies.items()}
    flips = {factor: round(share * attack["n_certified"]) for factor, share in flipped.items()}
    if not _agree(robust, flips, radius, correct):
        yield "shares of flipped predictions that contradict the accuracies under attack"


def _flip_problems(flipped: Mapping[str, float | None], n_certified: int) -> Iterator[str]:
    """Yield the claims about shares of flipped predictions, by multiples of the radius, that cannot hold."""
    by_factor = {float(text): share for text, share in flipped.items()}
    if len(by_factor) < len(flipped) or 1.0 not in by_factor:
        yield "shares of flipped predictions without one within the radii, or with several for one distance"
    if not all(0 < float(text) < inf and text in (str(float(text)), f"{float(text):.0f}") for text in flipped):
        yield "shares of flipped predictions at distances that are no positive numbers"
    if any((share is None) != (n_certified == 0) for share in by_factor.values()):
        yield "shares of flipped predictions that are null although images are certified, or the other way round"
    if any(share not in (0, None) for factor, share in by_factor.items() if not factor > 1):
        yield "predictions that flipped within certified radii"
    shares = [share for _, share in sorted(by_factor.items()) if share is not None]
    if shares != sorted(shares):
        yield "shares of flipped predictions that fall with the distance"
    if not all(0 <= share <= 1 for share in shares):
        yield "shares of flipped predictions that are none"


def _agree(robust: Mapping[float, int], flips: Mapping[float, int], radius: Tensor, correct: Tensor) -> bool:
    """Tell whether some distances of flips explain both kinds of figures, for each pair of them.

    Args:
        robust: numbers of correct images that were not flipped within a radius, by radius.
        flips: numbers of certified images that were flipped within a multiple of their radius, by factor.
        radius, correct: of the certificates.
    """
    certified = radius > 0
    for r, unchanged in robust.items():
        for factor, flipped in flips.items():
            reach = factor * radius
            # A correct image with r within its reach is not flipped within r, unless it is flipped within its reach.
            kept = int((certified & correct & (reach >= r)).sum())
            # One with its reach within r is flipped within r if it is flipped within its reach.
            lost = flipped - int((certified & ~(correct & (reach <= r))).sum())
            if not kept - flipped <= unchanged <= int(correct.sum()) - max(0, lost):
                return False
    return True
