"""Certificate files: reading returns the written content, and refuses any change."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from lipnet.certify import CertificateFileError, read_certificates
from lipnet.certify.files import (
    RADIUS_DECIMALS,
    Row,
    certificate_bytes,
    examine_certificates,
    read_summary,
    sealed,
    summary_bytes,
)
from lipnet.functional.margins import round_down

FACTS = {"dataset": "made up", "lipschitz_bound": 2.6602819875286916, "versions": {"torch": "2.10"}, "n_samples": 3}
ROWS = [Row(7, 1, 1, "0.123456789", 1), Row(3, 0, 2, "0.000000000", 0), Row(1000, 99, 99, "12.300000000", 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "certificates.tsv"
    path.write_bytes(certificate_bytes(FACTS, ROWS))
    return path


def test_what_is_written_comes_back(path: Path) -> None:
    content = read_certificates(path)
    assert content.facts == FACTS
    assert list(content.rows.values()) == ROWS
    lines = path.read_text().splitlines()
    assert all(lines[number - 1] == "\t".join(map(str, row)) for number, row in content.rows.items())


@pytest.mark.parametrize("radius", [5e-324, 2.0**-30, sys.float_info.max])
def test_every_radius_can_be_written_and_read(path: Path, radius: float) -> None:
    row = Row(0, 1, 1, round_down(radius, RADIUS_DECIMALS), 1)
    path.write_bytes(certificate_bytes({"n_samples": 1}, [row]))
    assert list(read_certificates(path).rows.values()) == [row]


def test_without_its_comments_it_is_a_plain_table(path: Path) -> None:
    table = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    assert table[0] == ["idx", "label", "prediction", "radius", "correct"]
    assert len(table) == 4
    assert all(len(line) == 5 for line in table)


def test_no_flipped_bit_passes(path: Path) -> None:
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CertificateFileError):
            read_certificates(path)


def test_no_shorter_file_passes(path: Path) -> None:
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(CertificateFileError):
            read_certificates(path)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("0.123456789", "0.923456789", "its SHA-256 differs from the one in its last line"),
        ("7\t1\t1\t0.123456789\t1\n", "", "holds 2 certificates and states 3"),
        ("0.123456789", "inf", r"line 7 cannot be read: '7\\t1\\t1\\tinf\\t1'"),
        ("99\t99", "99\t-1", "line 9 cannot be read"),
        ('"made up"', "made up", "line 2 cannot be read"),
        ("# sha256", "# sha1", "the SHA-256, is missing"),
    ],
)
def test_what_is_wrong_with_an_edited_file_is_said(path: Path, old: str, new: str, problem: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(CertificateFileError, match=rf"certificates\.tsv was changed after it was written: .*{problem}"):
        read_certificates(path)
    assert examine_certificates(path).problems


@pytest.mark.parametrize("content", [b"", b"idx\tlabel\n", b"# lipnet certificates, format 2\n", bytes(range(256))])
def test_another_file_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CertificateFileError, match="is not a file of certificates"):
        examine_certificates(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file of certificates .*certificates\.tsv"):
        read_certificates(tmp_path / "certificates.tsv")


def test_a_summary_comes_back_and_no_flipped_bit_passes(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    summary = sealed({"dataset": "made up", "clean_accuracy": 0.1 + 0.2, "versions": {"torch": "2.10"}, "radius": None})
    path.write_bytes(summary_bytes(summary))
    assert read_summary(path) == summary == json.loads(path.read_text())
    data = path.read_bytes()
    generator = random.Random(0)
    for bit in generator.sample(range(8 * len(data)), 500):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CertificateFileError):
            read_summary(path)


def resealed(lines: list[str]) -> str:
    body = "".join(f"{line}\n" for line in lines)
    return f'{body}# sha256: "{hashlib.sha256(body.encode()).hexdigest()}"\n'


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: [*lines[:3], '# dataset: "another"', *lines[3:]], "line 4 states dataset a second time"),
        (lambda lines: [*lines, '# split: "test"'], "lipnet writes these lines in another form or order"),
        (lambda lines: [*lines[:6], "", *lines[6:]], "in another form or order"),
        (lambda lines: [line.replace("7\t1", "07\t1") for line in lines], "in another form or order"),
        (lambda lines: [line for line in lines if not line.startswith("idx")], "in another form or order"),
        (lambda lines: [*lines[:2], f"# deep: {'[' * 100000}", *lines[2:]], "line 3 cannot be read"),
        (lambda lines: [*lines[:2], f"# long: {'1' * 5000}", *lines[2:]], "line 3 cannot be read"),
        (lambda lines: [line.replace("7\t1", "7" * 5000 + "\t1") for line in lines], "line 7 cannot be read"),
    ],
    ids=[
        "fact twice",
        "fact behind the rows",
        "empty line",
        "leading zero",
        "no heading",
        "deep",
        "long",
        "long index",
    ],
)
def test_a_resealed_file_in_another_form_is_refused(path: Path, change: Any, problem: str) -> None:
    path.write_text(resealed(change(path.read_text().splitlines()[:-1])))
    with pytest.raises(CertificateFileError, match=problem):
        read_certificates(path)


def test_paths_may_be_text_and_name_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    assert read_certificates(str(path)) == read_certificates("~/certificates.tsv")
    (path.parent / "summary.json").write_bytes(summary_bytes(sealed({"split": "test"})))
    assert read_summary(str(path.parent / "summary.json")) == read_summary("~/summary.json")


@pytest.mark.parametrize("content", [b"[" * 100000, b"9" * 5000, b'{"a": ' * 100000])
def test_a_summary_that_no_parser_can_hold_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(CertificateFileError, match="cannot be read as JSON"):
        read_summary(tmp_path / "summary.json")


@pytest.mark.parametrize("content", [b"", b"3", b"{}", b'{"sha256": "0"}', b"[1]"])
def test_another_summary_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with pytest.raises(CertificateFileError):
        read_summary(path)
