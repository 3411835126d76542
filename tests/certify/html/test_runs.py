"""Runs are read from intact files that belong together, and their figures are those of the rows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lipnet.certify import CertificateFileError
from lipnet.certify.html import read_run
from lipnet.certify.html.runs import axis_end
from tests.certify.html.synthetic import LAYERS, make_run


def test_the_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = make_run(tmp_path / "run")
    for place in (tmp_path / "run", tmp_path / "run" / "certificates.tsv", str(tmp_path / "run" / "summary.json")):
        run = read_run(place)
        assert (run.name, run.rows) == ("run", rows)
    for radius in (0.0, 36 / 255, 0.5, 2.0):
        count = sum(row.correct and float(row.radius) > radius for row in rows)
        assert run.certified(radius) == count / len(rows)
    assert run.clean == sum(row.correct for row in rows) / len(rows)
    assert run.marks == {"36/255": 36 / 255, "72/255": 72 / 255, "1": 1.0}


def test_a_radius_that_equals_the_mark_is_not_certified(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = read_run(tmp_path)
    [smallest, *_] = [float(step) for step in run.steps if step > 0]
    assert run.certified(smallest) < run.certified(smallest * (1 - 1e-12))


@pytest.mark.parametrize(("names", "expected"), [(None, "3"), (["a", "b"], "3"), (["a", "b", "c", "d"], "d")])
def test_a_class_without_a_name_has_its_number(tmp_path: Path, names: list[str] | None, expected: str) -> None:
    make_run(tmp_path)
    assert read_run(tmp_path, class_names=names).class_name(3) == expected


def test_names_in_the_summary_are_used(tmp_path: Path) -> None:
    make_run(tmp_path, classes=["cat", "dog"])
    assert read_run(tmp_path).class_name(1) == "dog"


def test_missing_edited_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no certificates\.tsv: a report needs"):
        read_run(tmp_path)
    make_run(tmp_path / "one")
    make_run(tmp_path / "two", seed=1)
    (tmp_path / "two" / "summary.json").rename(tmp_path / "one" / "summary.json")
    with pytest.raises(CertificateFileError, match=r"is not about certificates\.tsv beside it: weights_sha256 differ"):
        read_run(tmp_path / "one")
    table = tmp_path / "one" / "certificates.tsv"
    table.write_text(table.read_text().replace("\t0.", "\t9.", 1))
    with pytest.raises(CertificateFileError, match="was changed after it was written"):
        read_run(tmp_path / "one")


@pytest.mark.parametrize(
    ("entry", "value"), [("parameters", "many"), ("layers", None), ("rounding", []), ("classes", 5)]
)
def test_a_summary_with_a_wrong_entry_is_named(tmp_path: Path, entry: str, value: object) -> None:
    make_run(tmp_path, **{entry: value})
    with pytest.raises(CertificateFileError, match=rf"is not as lipnet writes it: {entry} missing or wrong"):
        read_run(tmp_path)


ATTACK = {
    "method": "PGD",
    "settings": {},
    "n_samples": 60,
    "accuracy": {},
    "n_certified": 50,
    "flipped": {"1": 0.0},
    "unconfirmed": 0,
    "wall_seconds": 1.5,
}
_COVERED = {"covered": True, "logits": 1e-9, "radius": 1e-9}


@pytest.mark.parametrize(
    ("entries", "place"),
    [
        ({"layers": ["x"]}, r"layers\[0\]"),
        ({"layers": [{**LAYERS[0], "input_shape": 5}]}, r"layers\[0\]\.input_shape"),
        ({"layers": [{key: value for key, value in LAYERS[0].items() if key != "path"}]}, r"layers\[0\]\.path"),
        ({"layers": [{**LAYERS[0], "constant": "x"}]}, r"layers\[0\]\.constant"),
        ({"rounding": {}}, r"rounding\.covered"),
        ({"rounding": _COVERED}, r"rounding\.measured"),
        ({"certified_accuracy": {"1": "x"}}, r"certified_accuracy\.1"),
        ({"certified_accuracy": {"far": 0.5}}, "certified_accuracy"),
        ({"certified_accuracy": {}}, "certified_accuracy"),
        ({"average_certified_radius": math.nan}, "average_certified_radius"),
        ({"average_certified_radius": True}, "average_certified_radius"),
        ({"attack": 3}, "attack"),
        ({"attack": {"method": "pgd", "settings": {}, "violation": 3, "file": "x"}}, r"attack\.violation"),
        ({"attack": {"method": "pgd", "settings": {}, "violation": "x"}}, r"attack\.file"),
        (
            {"attack": {**ATTACK, "accuracy": {"1": {"certified": 0.5, "clean": 0.5}}}},
            r"attack\.accuracy\.1\.under_attack",
        ),
        ({"attack": {**ATTACK, "proved": "all"}}, r"attack\.proved"),
        ({"attack": {**ATTACK, "n_samples": True}}, r"attack\.n_samples"),
    ],
)
def test_a_nested_entry_that_is_wrong_is_named(tmp_path: Path, entries: dict[str, object], place: str) -> None:
    make_run(tmp_path, **entries)
    with pytest.raises(CertificateFileError, match=rf"is not as lipnet writes it: {place} missing or wrong"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "entry", [{"clean_accuracy": 1.0}, {"average_certified_radius": 9.0}, {"certified_accuracy": {"1": 1.0}}]
)
def test_figures_that_are_not_those_of_the_certificates_are_not_shown(tmp_path: Path, entry: dict[str, object]) -> None:
    make_run(tmp_path, **entry)
    with pytest.raises(
        CertificateFileError, match=rf"is not as lipnet writes it: {next(iter(entry))} missing or wrong"
    ):
        read_run(tmp_path)


def test_the_axis_of_a_run_without_certificates_has_a_length(tmp_path: Path) -> None:
    make_run(tmp_path)
    run = read_run(tmp_path)
    assert axis_end([run]) > float(run.steps.quantile(0.99))
    empty = read_run(tmp_path)
    object.__setattr__(empty, "rows", [row._replace(correct=0) for row in run.rows])
    assert axis_end([empty]) == 1.0
