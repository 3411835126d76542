"""Compare every entry of a summary.json with its certificates and with recomputed values."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from lipnet.certify.files import CertificateFile, CertificateFileError, read_summary
from lipnet.certify.report import figures_of, same_figure
from lipnet.certify.run import Certification
from lipnet.metrics.functional import check_radii
from lipnet.workflows.attack_check import attack_problems

# Entries that are not recomputed, and their types: path of the checkpoint, duration, attack, checksum.
_UNREPEATED = {"checkpoint": str, "wall_seconds": float, "attack": dict, "sha256": str}


def compare_summary(path: Path, content: CertificateFile, certification: Certification) -> tuple[list[str], list[str]]:
    """Compare every entry of the summary with the certificates and with recomputed values.

    Args:
        path: summary.json; nothing is compared if it does not exist.
        content: the file of certificates.
        certification: the same samples with the recomputed bounds.

    Returns:
        Sentences for problems, and for notes.
    """
    if not path.is_file():
        return [], []
    try:
        summary = read_summary(path)
        radii, _ = check_radii(list(summary["certified_accuracy"]))
    except CertificateFileError as error:
        return [str(error)], []
    except (KeyError, TypeError, ValueError) as error:
        return [f"{path.name} states no certified_accuracy at radii that can be read ({error!r})"], []
    rows = list(content.rows.values())
    figures = figures_of(rows, radii)
    expected = {**content.facts, **figures}
    problems = [
        f"{path.name} states {name} {summary[name]}, the file {value}"
        for name, value in expected.items()
        if name in summary and not (same_figure if name in figures else identical)(summary[name], value)
    ]
    for name, value in certification.evidence.summary(certification.first_images).items():
        for place in _disagreements(summary[name], value, name) if name in summary else ():
            problems.append(f"{path.name} states another value of {place} than the recomputed one")
        expected[name] = value
    problems += [f"{path.name} {claim}" for claim in _entry_problems(summary, expected)]
    if "attack" not in summary:
        return problems, []
    problems += [f"{path.name} states {claim}" for claim in attack_problems(summary["attack"], rows)]
    return problems, [f"{path.name} states an attack, which is not repeated here: certify.py attack=... repeats it"]


def _entry_problems(summary: Mapping[str, Any], expected: Collection[str]) -> Iterator[str]:
    """Yield a clause for each entry that is missing, unknown, or not recomputed and of another type.

    Args:
        summary: all entries.
        expected: names of the recomputed entries.
    """
    for name in summary.keys() - set(expected):
        if not isinstance(summary[name], _UNREPEATED.get(name, ())):
            yield f"states {name} {summary[name]!r}, which is no entry of a summary"
    for name in (*expected, "checkpoint", "wall_seconds"):
        if name not in summary:
            yield f"does not state {name}"
    seconds = summary.get("wall_seconds", 0.0)
    if isinstance(seconds, float) and not 0 <= seconds < float("inf"):
        yield f"states wall_seconds {seconds}"


def identical(stated: Any, found: Any) -> bool:
    """Compare two values as JSON, where true differs from 1."""
    return json.dumps(stated, sort_keys=True) == json.dumps(found, sort_keys=True)


def _disagreements(stated: Any, found: Any, place: str) -> Iterator[str]:
    """Yield the places where two JSON values differ by more than two machines' arithmetic explains.

    Machines compute norms and products in another order. The numbers behind every radius, K and E, are facts of the
    file and compared exactly; the values here only show how they come about.
    """
    if place == "rounding.measured":
        if not _same_measurement(stated, found):
            yield place
    elif isinstance(found, dict) and isinstance(stated, dict):
        for name in {**found, **stated}:
            if name in found and name in stated:
                yield from _disagreements(stated[name], found[name], f"{place}.{name}")
            else:
                yield f"{place}.{name}"
    elif isinstance(found, list) and isinstance(stated, list) and len(found) == len(stated):
        for number, (one, other) in enumerate(zip(stated, found, strict=True)):
            yield from _disagreements(one, other, f"{place}[{number}]")
    elif isinstance(found, float) and isinstance(stated, float):
        if not abs(stated - found) <= 1e-6 * abs(found):
            yield place
    elif not identical(stated, found):
        yield place


def _same_measurement(stated: Any, found: Mapping[str, Any]) -> bool:
    """Compare measured distances by magnitude, because their digits depend on the machine."""
    if not isinstance(stated, dict) or stated.keys() != found.keys() or stated["images"] != found["images"]:
        return False
    if not all(type(stated[name]) is type(value) for name, value in found.items()):
        return False
    distances = [(stated[name], found[name]) for name in ("float64", "float32")]
    # A distance that overflows is null.
    near = all(
        one is None or (0 <= one <= 10 * other + 1e-12 and other <= 10 * one + 1e-12) for one, other in distances
    )
    same = abs(stated["float32_predictions"] - found["float32_predictions"]) <= 1 + found["images"] // 100
    return near and same and 0 <= stated["float32_predictions"] <= found["images"]
