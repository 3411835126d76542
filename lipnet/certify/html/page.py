"""The page of a report: one complete file, which loads nothing and runs no script but its own."""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from math import isfinite
from pathlib import Path
from string import Template
from typing import Any
from xml.etree.ElementTree import Element

from torch import Tensor

from lipnet.certify.files import REPORT
from lipnet.certify.html import sections
from lipnet.certify.html.comparison import comparison
from lipnet.certify.html.elements import element, html, section
from lipnet.certify.html.pictures import AttackedImages, Sprites, sprite_sheets
from lipnet.certify.html.runs import Run, certified_folder, read_run
from lipnet.files import atomic_write, resolve_path

COMPARISON = "compare.html"
GALLERY = 10_000
"""Largest number of images in the gallery; figures, charts and tables cover all."""
# Bytes of the images: in base64, and with 10,000 certificates, the page stays below 15 MB.
IMAGE_BYTES, ATTACK_BYTES = 10_300_000, 1_400_000


def write_report(
    folder: str | Path,
    images: Iterable[Tensor],
    *,
    class_names: Sequence[str] | None = None,
    attacked: AttackedImages | None = None,
    command: str | None = None,
    expected: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.html beside the files of a certification. It shows them; no verification reads it.

    Args:
        folder: holds certificates.tsv and summary.json.
        images: the certified images, pixels in [0, 1], in batches (B, C, H, W) in the order of the certificates; other
            images may follow.
        class_names: names of the classes; by default those in the summary, or their numbers.
        attacked: images of an attack, in the order of the certificates, beginning with the first.
        command: the command line of the certification, to show.
        expected: content of summary.json as the certification of these images returned it; None for any.

    Returns:
        The path of the report.

    Raises:
        FileNotFoundError, CertificateFileError: as `read_run`.
        ValueError: if there are fewer images than certificates.
    """
    folder = resolve_path(folder)
    run = read_run(folder, class_names=class_names, expected=expected)
    data: dict[str, Any] = {"curves": _curves([run]), **_gallery(run)}
    pictures: dict[str, Sprites] = {}
    if attacked is not None and attacked.distance:
        data["attack"], pictures = _attacked(attacked)
        data["classes"] |= {label: run.class_name(label) for label in attacked.prediction}
    budget = IMAGE_BYTES - ATTACK_BYTES * len(pictures)
    pictures["images"] = sprite_sheets(_first(images, min(GALLERY, len(run.rows))), budget)
    data["pictures"] = {name: sprites.layout() for name, sprites in pictures.items()}
    summary = run.summary
    parts = [sections.headline(run), sections.charts([run]), sections.classes(run), _gallery_section(run, pictures)]
    if "attack" in summary:
        parts.append(sections.attack(summary["attack"]))
    parts += [sections.layers(summary["layers"]), sections.provenance(run, command)]
    title = f"Certified robustness: {summary.get('dataset', folder.name)}, {summary.get('split', 'certified')} images"
    _write(folder / REPORT, title, parts, data, pictures)
    return folder / REPORT


def write_comparison(runs: Sequence[str | Path], path: str | Path, *, command: str | None = None) -> Path:
    """Write a page that overlays the curves of several certifications.

    Args:
        runs: folders with certificates.tsv and summary.json, at least two.
        path: the file to write.
        command: the command line of the comparison, to show.

    Raises:
        ValueError: for fewer than two runs.
        FileNotFoundError, CertificateFileError: as `read_run`.
    """
    folders = [certified_folder(run) for run in runs]
    if len(set(folders)) < 2:
        raise ValueError(f"a comparison needs at least two runs, got {', '.join(map(str, runs)) or 'none'}")
    read = [read_run(folder, name) for folder, name in zip(folders, _distinct_names(folders), strict=True)]
    parts = [comparison(read), sections.charts(read), sections.provenances(read, command)]
    path = resolve_path(path)
    _write(path, f"Certified robustness: {len(read)} runs compared", parts, {"curves": _curves(read)}, {})
    return path


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return a name for each folder: the end of its path, just long enough to tell the folders apart."""
    for depth in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def _first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Yield batches with the first ``count`` images; raise ValueError if there are fewer."""
    left = count
    for batch in batches:
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return
    raise ValueError(f"images must be the {count} certified ones, got {count - left}")


def _curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [{"name": run.name, "n": len(run.rows), "radii": run.steps.tolist()} for run in runs]


def _gallery(run: Run) -> dict[str, Any]:
    """Return the certificates by column, with radii as written: rounding could make them larger."""
    rows = run.rows[:GALLERY]
    labels = sorted({row.label for row in rows} | {row.prediction for row in rows})
    return {
        "classes": {label: run.class_name(label) for label in labels},
        "idx": [row.idx for row in rows],
        "label": [row.label for row in rows],
        "prediction": [row.prediction for row in rows],
        "radius": [row.radius for row in rows],
    }


def _attacked(found: AttackedImages) -> tuple[dict[str, Any], dict[str, Sprites]]:
    """Return the attack's results for the gallery, and sheets of the perturbed images and amplified differences."""
    gains: list[float] = []
    differences = []
    for images, perturbed in found.pairs:
        delta = (perturbed - images).detach().cpu().float()
        largest = delta.flatten(1).abs().amax(dim=1).clamp(min=1e-12)
        gains += (0.5 / largest).tolist()
        differences.append(0.5 + 0.5 * delta / largest.view(-1, 1, 1, 1))
    pictures = {
        "perturbed": sprite_sheets((perturbed for _, perturbed in found.pairs), ATTACK_BYTES),
        "difference": sprite_sheets(differences, ATTACK_BYTES),
    }
    distances = [distance if isfinite(distance) else None for distance in found.distance]
    return {"distance": distances, "prediction": found.prediction, "gain": gains}, pictures


def _gallery_section(run: Run, pictures: dict[str, Sprites]) -> Element:
    """Return the controls of the gallery; the script adds the images."""
    orders = {
        "surest": "surest: correct, largest radius",
        "unsure": "least sure: correct, smallest radius",
        "wrong": "wrong, largest radius",
        "file": "all, in the order of the file",
    }
    if "perturbed" in pictures:
        orders["flipped"] = "nearest changes found by the attack"
    order = element("select", *(element("option", text, value=name) for name, text in orders.items()), id="order")
    labels = sorted({row.label for row in run.rows[:GALLERY]})
    options = [element("option", "all classes", value="")]
    options += [element("option", run.class_name(label), value=label) for label in labels]
    controls = element(
        "div",
        element("label", "Order ", order),
        element("label", "Class ", element("select", *options, id="class")),
        element("span", id="count", role="status"),
        class_="controls",
    )
    note = pictures["images"].note
    hint = "Select an image to enlarge it." + (f" The images here are {note}." if note else "")
    if len(run.rows) > GALLERY:
        hint += f" They are the first {GALLERY:,} of {len(run.rows):,}; charts and tables cover all."
    more = element("button", "Show more", type="button", id="more")
    return section("gallery", "Images", element("p", hint), controls, element("div", id="tiles", class_="tiles"), more)


def _write(
    path: Path, title: str, parts: Sequence[Element], data: dict[str, Any], pictures: dict[str, Sprites]
) -> None:
    """Fill the template with sections, data and pictures, and write the page."""
    assets = files("lipnet.certify.html") / "assets"
    style, script, template = ((assets / name).read_text() for name in ("report.css", "report.js", "report.html"))
    links = [element("a", str(part[0].text), href=f"#{part.get('id')}") for part in parts]
    # Browsers apply only this style and run only this script, even if a text reached the page as markup.
    policy = (
        f"default-src 'none'; img-src data: blob:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    sheets = [
        f'<script type="text/plain" id="{name}-{number}">{sheet}</script>'
        for name, sprites in pictures.items()
        for number, sheet in enumerate(sprites.encoded())
    ]
    page = Template(template).substitute(
        title=escape(title),
        policy=policy,
        style=style,
        script=script,
        links=html(element("nav", *links, aria_label="Sections")),
        body=html(*parts),
        # Within a script element, only "<" could end it.
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        sheets="\n".join(sheets),
    )
    with atomic_write(path) as file:
        # Names of files may hold bytes that UTF-8 cannot encode.
        file.write(page.encode("utf-8", "backslashreplace"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
