"""The file of certificates: what they rest on, a line for each image, and a checksum of all of it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

TITLE = "# lipnet certificates, format 1"
COLUMNS = ("idx", "label", "prediction", "radius", "correct")
RADIUS_DECIMALS = 9
_ROW = re.compile(rf"(\d+)\t(\d+)\t(\d+)\t(\d+\.\d{{{RADIUS_DECIMALS}}})\t([01])", re.ASCII)
_FACT = re.compile(r"# (\w+): (.*)", re.ASCII)


class CertificateFileError(ValueError):
    """A file that is no file of certificates, or one that was cut, damaged or edited."""


class Row(NamedTuple):
    """The certificate of an image.

    Attributes:
        idx: the image's index in the official file.
        label: its true class.
        prediction: the predicted class.
        radius: the certified L2 radius in pixels of [0, 1], as it is written: rounded down at nine decimals.
        correct: 1 if the prediction is the label, otherwise 0.
    """

    idx: int
    label: int
    prediction: int
    radius: str
    correct: int


@dataclass(frozen=True)
class CertificateFile:
    """What a file of certificates says.

    Attributes:
        facts: what the certificates rest on, by name.
        rows: a certificate for each image, by the number of its line, from 1.
        problems: what shows that the file is not as it was written; empty for an intact file.
    """

    facts: dict[str, Any]
    rows: dict[int, Row]
    problems: tuple[str, ...]


def certificate_bytes(facts: Mapping[str, Any], rows: Sequence[Row]) -> bytes:
    """The content of a file of certificates.

    It is a table of tab-separated values between lines that begin with ``#``, as
    ``pandas.read_csv(path, sep="\\t", comment="#")`` reads it: first the facts, each with its value as JSON; last the
    SHA-256 of every byte before that line.

    Args:
        facts: what the certificates rest on, ``n_samples`` among it; names are letters, digits and underscores.
        rows: in the order of the data.
    """
    lines = [TITLE, *(f"# {name}: {json.dumps(value)}" for name, value in facts.items()), "\t".join(COLUMNS)]
    lines += ["\t".join(map(str, row)) for row in rows]
    body = "".join(f"{line}\n" for line in lines).encode()
    return body + _last_line(hashlib.sha256(body).hexdigest())


def read_certificates(path: Path) -> CertificateFile:
    """Read a file of certificates that is as it was written.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if it is no file of certificates, or not as it was written.
    """
    content = examine_certificates(path)
    if content.problems:
        raise CertificateFileError(f"{path} is not as it was written: {'; '.join(content.problems)}")
    return content


def examine_certificates(path: Path) -> CertificateFile:
    """Read what can be read of a file of certificates, and say what is wrong with it.

    Raises:
        FileNotFoundError: if there is no such file.
        CertificateFileError: if it does not begin as a file of certificates.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of certificates {path.absolute()}")
    data = path.read_bytes()
    if not data.startswith(f"{TITLE}\n".encode()):
        raise CertificateFileError(
            f"{path} is no file of certificates that this version of lipnet reads: its first line is not {TITLE!r}; "
            "files without that line carry no checksum: certify again"
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
            facts[fact[0]] = fact[1]
        elif line not in ("", "\t".join(COLUMNS)):
            problems.append(f"line {number} cannot be read: {line[:80]!r}")
    count, digest = facts.get("n_samples"), facts.pop("sha256", None)
    if digest is None:
        problems.append("its last line, with the SHA-256, is missing: it was cut or edited")
    elif data != _sealed(data, digest):
        problems.append("its SHA-256 is not the one that its last line states: it was damaged or edited")
    if count != len(rows):
        problems.append(f"it holds {len(rows)} certificates and states {count}")
    return CertificateFile(facts, rows, tuple(problems))


def _fact(line: str) -> tuple[str, Any] | None:
    match = _FACT.fullmatch(line)
    if match is None:
        return None
    try:
        return match[1], json.loads(match[2])
    except json.JSONDecodeError:
        return None


def _sealed(data: bytes, digest: Any) -> bytes | None:
    """The bytes of a file as they must be if it ends in this SHA-256; None if no line could state it."""
    body, mark, _ = data.rpartition(b"# sha256: ")
    return body + _last_line(digest) if mark and hashlib.sha256(body).hexdigest() == digest else None


def _last_line(digest: str) -> bytes:
    return f"# sha256: {json.dumps(digest)}\n".encode()
