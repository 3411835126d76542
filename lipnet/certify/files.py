"""The files of a certification, certificates.tsv and summary.json: write, read, and examine them."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from lipnet.certify.certificates import Certificates
from lipnet.files import complete_writes, resolve_path
from lipnet.functional.digest import json_bytes, json_sha256
from lipnet.functional.margins import round_down

TITLE = "# lipnet certificates, format 1"
COLUMNS = ("idx", "label", "prediction", "radius", "correct")
RADIUS_DECIMALS = 9
CERTIFICATES, CURVE, SUMMARY = FILES = ("certificates.tsv", "curve.png", "summary.json")
REPORT, VIOLATION = ABOUT_CERTIFICATES = ("report.html", "violation.npz")
# At most 18 digits, which fit into int64, and 309 digits, which the largest float64 has.
_ROW = re.compile(
    rf"(\d{{1,18}})\t(\d{{1,18}})\t(\d{{1,18}})\t(\d{{1,309}}\.\d{{{RADIUS_DECIMALS}}})\t([01])", re.ASCII
)
_NAME = re.compile(r"\w+", re.ASCII)
_FACT = re.compile(rf"# ({_NAME.pattern}): (.*)", re.ASCII)
_CHECKSUM = "sha256"


def complete_files(folder: Path) -> None:
    """Finish replacing a certification's files, if a kill interrupted it; errors as `lipnet.files.complete_writes`."""
    places, outdated = places_in(folder)
    complete_writes(*places, outdated=outdated)


def places_in(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the paths of a certification's files in a folder, and of the files about them, which they outdate."""
    return [folder / name for name in FILES], [folder / name for name in ABOUT_CERTIFICATES]


class CertificateFileError(ValueError):
    """A file is not a certificate file or summary, or it was cut, damaged or edited."""


class Row(NamedTuple):
    """Certificate of an image.

    Attributes:
        idx: the image's index in the official file.
        label: its true class.
        prediction: the predicted class.
        radius: the certified L2 radius in pixels of [0, 1], as written: rounded down at nine decimals.
        correct: 1 if the prediction is the label, otherwise 0.
    """

    idx: int
    label: int
    prediction: int
    radius: str
    correct: int


def check_fact_names(facts: Mapping[str, Any]) -> None:
    """Raise ValueError for facts under names that `certificate_bytes` cannot write."""
    wrong = [name for name in facts if not _NAME.fullmatch(str(name)) or name == _CHECKSUM]
    if wrong:
        raise ValueError(f"names of facts consist of letters, digits and _, and {_CHECKSUM!r} is taken, got {wrong}")


def rows_of(indices: Tensor, labels: Tensor, certificates: Certificates) -> tuple[Row, ...]:
    """Return the rows of a batch, with radii rounded down to the file's decimals.

    Args:
        indices: each image's index in the official file, (B,).
        labels: the true classes, (B,).
        certificates: certificates of the same images.
    """
    columns = (indices, labels, certificates.prediction, certificates.radius, certificates.correct)
    return tuple(
        Row(idx, label, prediction, round_down(radius, RADIUS_DECIMALS), int(correct))
        for idx, label, prediction, radius, correct in zip(*(column.tolist() for column in columns), strict=True)
    )


@dataclass(frozen=True)
class CertificateFile:
    """Content of a file of certificates.

    Attributes:
        facts: the settings and bounds that the certificates rest on, by name.
        rows: a certificate for each image, by its line number, from 1.
        problems: signs that the file was changed after lipnet wrote it; empty for an intact file.
    """

    facts: dict[str, Any]
    rows: dict[int, Row]
    problems: tuple[str, ...]


def certificate_bytes(facts: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    """Return the content of a file of certificates.

    ``pandas.read_csv(path, sep="\\t", comment="#")`` reads it: a table of tab-separated values. Lines that begin with
    ``#`` state the facts before the table, each with its value as JSON, and after it the SHA-256 of all bytes above.

    Args:
        facts: the settings and bounds, with ``n_samples``; names consist of letters, digits and underscores.
        rows: the certificates in the order of the data.
    """
    text = io.StringIO()
    text.writelines(f"{line}\n" for line in (TITLE, *(f"# {name}: {json.dumps(facts[name])}" for name in facts)))
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows([COLUMNS, *rows])
    body = text.getvalue().encode()
    return body + f"# {_CHECKSUM}: {json.dumps(hashlib.sha256(body).hexdigest())}\n".encode()


def read_certificates(path: str | Path) -> CertificateFile:
    """Read a file of certificates that is intact.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if it is not a file of certificates, or was changed after lipnet wrote it.
    """
    content = examine_certificates(path)
    if content.problems:
        raise CertificateFileError(f"{path} was changed after it was written: {'; '.join(content.problems)}")
    return content


def read_certified(folder: Path, expected: Mapping[str, Any] | None = None) -> tuple[CertificateFile, dict[str, Any]]:
    """Read certificates.tsv and summary.json of a folder.

    Args:
        folder: holds both files.
        expected: content of the summary as it was written or read before; an attack may have joined it since. None for
            any certification.

    Raises:
        FileNotFoundError: if a file is missing.
        CertificateFileError: if a file was changed after it was written, the two do not belong together, or another
            certification has replaced the expected one.
    """
    content, summary = read_certificates(folder / CERTIFICATES), read_summary(folder / SUMMARY)
    differing = [name for name, value in content.facts.items() if name not in summary or summary[name] != value]
    if differing or not content.rows:
        raise CertificateFileError(
            f"{folder / SUMMARY} is not about {CERTIFICATES} beside it: {', '.join(differing) or 'no rows'} differ"
        )
    if expected is not None and _without_attack(summary) != _without_attack(expected):
        raise CertificateFileError(f"another certification has replaced the one in {folder} meanwhile: begin again")
    return content, summary


def _without_attack(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in unsealed(summary).items() if name != "attack"}


def examine_certificates(path: str | Path) -> CertificateFile:
    """Read as much as possible of a file of certificates, and list what is wrong with it.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if its first line is not the title of a file of certificates.
    """
    path = resolve_path(path)
    complete_files(path.parent)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of certificates {path}")
    data = path.read_bytes()
    if not data.startswith(f"{TITLE}\n".encode()):
        raise CertificateFileError(
            f"{path} is not a file of certificates that this version of lipnet reads: its first line must be "
            f"{TITLE!r}; older files have no checksum: certify again"
        )
    facts: dict[str, Any] = {}
    rows: dict[int, Row] = {}
    problems: list[str] = []
    for number, line in enumerate(data.decode(errors="replace").split("\n")[1:], 2):
        row, fact = _ROW.fullmatch(line), _fact(line)
        if row is not None:
            idx, label, prediction, radius, correct = row.groups()
            rows[number] = Row(int(idx), int(label), int(prediction), radius, int(correct))
        elif fact is not None:
            if fact[0] in facts:
                problems.append(f"line {number} states {fact[0]} a second time")
            facts[fact[0]] = fact[1]
        elif line not in ("", "\t".join(COLUMNS)):
            problems.append(f"line {number} cannot be read: {line[:80]!r}")
    digest, count = facts.pop(_CHECKSUM, None), facts.get("n_samples")
    problems += _damage(data, digest, facts, list(rows.values()), intact=not problems)
    if count != len(rows):
        problems.append(f"it holds {len(rows)} certificates and states {count}")
    return CertificateFile(facts, rows, tuple(problems))


def _damage(data: bytes, digest: Any, facts: Mapping[str, Any], rows: Sequence[Row], intact: bool) -> Iterator[str]:
    """Yield a problem if the SHA-256 is missing or wrong, or if lipnet would write the intact content otherwise."""
    body, mark, _ = data.rpartition(f"# {_CHECKSUM}: ".encode())
    if digest is None:
        yield "its last line, with the SHA-256, is missing: it was cut or edited"
    elif not mark or hashlib.sha256(body).hexdigest() != digest:
        yield "its SHA-256 differs from the one in its last line: it was damaged or edited"
    elif intact and data != certificate_bytes(facts, rows):
        yield "lipnet writes these lines in another form or order: it was edited"


def _fact(line: str) -> tuple[str, Any] | None:
    """Return the name and value of a fact, or None if the line states none."""
    match = _FACT.fullmatch(line)
    try:
        return None if match is None else (match[1], json.loads(match[2]))
    except (ValueError, RecursionError):
        return None


def sealed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary with the SHA-256 of its own content."""
    return {**summary, _CHECKSUM: json_sha256(summary)}


def unsealed(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary without its checksum."""
    return {key: value for key, value in summary.items() if key != _CHECKSUM}


def summary_bytes(summary: Mapping[str, Any]) -> bytes:
    """Return the content of summary.json."""
    return json_bytes(summary)


def read_summary(path: str | Path) -> dict[str, Any]:
    """Read a summary.json that is intact.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if it was changed after lipnet wrote it.
    """
    path = resolve_path(path)
    complete_files(path.parent)
    data = path.read_bytes()
    try:
        content = json.loads(data)
        intact = isinstance(content, dict) and data == summary_bytes(sealed(unsealed(content)))
    except (ValueError, RecursionError) as error:
        raise CertificateFileError(f"{path} cannot be read as JSON: it was cut, damaged or edited ({error})") from error
    if not intact:
        raise CertificateFileError(f"{path} was changed after it was written: its SHA-256 does not fit its content")
    assert isinstance(content, dict)
    return content
