"""Sections of a report: headline, charts, classes, attack, layers, provenance."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from lipnet.certify.html.charts import SERIES, curve_chart, histogram
from lipnet.certify.html.elements import element, number, section, table
from lipnet.certify.html.runs import Run
from lipnet.certify.report import is_plain, rounding_sentence
from lipnet.functional.margins import round_down

_KEYS = {"correct": "right", "wrong": "wrong"}
_FACTS = (
    "dataset",
    "split",
    "n_samples",
    "checkpoint",
    "checkpoint_sha256",
    "weights_sha256",
    "data_sha256",
    "parameters",
    "lipschitz_bound",
    "rounding_bound",
    "dtype",
    "device",
    "batch_size",
    "wall_seconds",
    "versions",
)


def percent(share: float) -> str:
    """Format a fraction in per cent."""
    return f"{100 * share:.2f} %"


def headline(run: Run) -> Element:
    """Return the most important figures and their meaning."""
    summary = run.summary
    average = summary["average_certified_radius"]
    cards = [("clean accuracy", percent(run.clean), "")]
    cards += [(f"certified at {text}", percent(share), "") for text, share in summary["certified_accuracy"].items()]
    cards.append(("average certified radius", "-" if average is None else round_down(average, 3), "of correct images"))
    children: list[Element] = [element("p", _sentence(run), class_="lead")]
    if "violation" in summary.get("attack", {}):
        children.append(element("p", f"Unsound: {summary['attack']['violation']}", class_="alarm", role="alert"))
    items = [
        element("div", element("dt", name), element("dd", value, element("small", f" {note}" if note else "")))
        for name, value, note in cards
    ]
    children.append(element("dl", *items, class_="cards"))
    children.append(element("p", rounding_sentence(summary), class_="note"))
    return section("headline", "Headline figures", *children)


def _sentence(run: Run) -> str:
    """Say in words what fraction of the images is correct, and what fraction is certified at the first radius."""
    images = f"{len(run.rows):,} {run.summary.get('split', '')} images"
    sentence = f"The network classifies {percent(run.clean)} of {images} correctly."
    for text, share in list(run.summary["certified_accuracy"].items())[:1]:
        sentence += (
            f" {percent(share)} are proved to stay correct under every change of the image up to an L2 distance of "
            f"{text}, for pixels in [0, 1]."
        )
    return sentence


def charts(runs: Sequence[Run]) -> Element:
    """Return the curve with a slider to read it; for a single run, also the histogram of the radii."""
    slider = element("input", type="range", id="radius", min=0, max=1000, value=0, step=1)
    readout = element("output", id="readout", for_="radius", aria_live="polite")
    curve = element(
        "figure",
        curve_chart(runs),
        *([legend(runs)] if len(runs) > 1 else []),
        element("label", "Read the curve at radius ", slider, class_="slider", for_="radius"),
        readout,
        element("figcaption", "Certified accuracy: correct, and no image within the radius has another prediction."),
    )
    if len(runs) > 1:
        return section("curve-section", "Certified accuracy against radius", curve)
    [run] = runs
    zero = int((run.radius == 0).sum())
    caption = f"Certified radii by correctness. {zero:,} of {len(run.rows):,} images have none."
    key = element(
        "p", element("span", "correct", class_="key right"), " ", element("span", "wrong", class_="key wrong")
    )
    bars = element("figure", histogram(run), key, element("figcaption", caption))
    return section("curve-section", "Certified accuracy and radii", element("div", curve, bars, class_="pair"))


def legend(runs: Sequence[Run]) -> Element:
    """Return the colours of the runs with their names."""
    items = [element("li", run.name, class_=f"key s{number % SERIES}") for number, run in enumerate(runs)]
    return element("ul", *items, class_="legend")


def classes(run: Run) -> Element:
    """Return a sortable table of clean and certified accuracy by class."""
    columns = [
        sortable("class", 0),
        *(sortable(name, place) for place, name in enumerate(("images", "clean %", *run.marks, "mean radius"), 1)),
    ]
    rows = []
    for label in sorted({row.label for row in run.rows}):
        own = [float(row.radius) for row in run.rows if row.label == label and row.correct]
        count = sum(row.label == label for row in run.rows)
        shares = [len(own) / count, *(sum(radius > r for radius in own) / count for r in run.marks.values())]
        mean = sum(own) / len(own) if own else 0.0
        cells = [element("th", run.class_name(label), scope="row", data_value=label)]
        cells += [number(f"{count:,}", data_value=count)]
        cells += [number(f"{100 * share:.1f}", data_value=share) for share in shares]
        cells += [number(round_down(mean, 3) if own else "-", data_value=mean)]
        rows.append(element("tr", *cells))
    intro = element("p", "Certified accuracy at L2 radii, of the images of each class. Select a heading to sort.")
    return section("classes", "Classes", intro, table(columns, rows, id="class-table", aria_label="Classes"))


def sortable(name: str, place: int) -> Element:
    """Return a heading with a button that sorts its column."""
    kind = "number" if place else None
    return element("th", element("button", name, type="button"), scope="col", class_=kind)


def attack(found: Mapping[str, Any]) -> Element:
    """Return the figures of an attack, or the violation that it found.

    Args:
        found: the entry ``attack`` of summary.json.
    """
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found["settings"].items())
    method = f"{found['method']} ({settings})" if settings else str(found["method"])
    if "violation" in found:
        text = f"The attack shows that a certificate is wrong: {found['violation']}."
        if found["file"] is not None:
            text += f" Both images are in {found['file']}."
        return section("attack", "Under attack", element("p", text, class_="alarm"), element("p", method))
    names = ("certified", "under attack", "clean")
    columns = [element("th", "L2 radius", scope="col")]
    columns += [element("th", name, scope="col", class_="number") for name in names]
    rows = [
        element(
            "tr",
            element("th", radius, scope="row"),
            *(number(percent(shares[name.replace(" ", "_")])) for name in names),
        )
        for radius, shares in found["accuracy"].items()
    ]
    power = [element("th", "multiple of the certified radius", scope="col")]
    power += [element("th", "flipped", scope="col", class_="number")]
    flips = [
        element("tr", element("th", factor, scope="row"), number("-" if share is None else percent(share)))
        for factor, share in found["flipped"].items()
    ]
    intro = (
        f"{method}. {found['n_samples']:,} images were attacked. No prediction changed within a certified radius. An "
        "attack that finds nothing proves nothing; what it finds beyond the radii shows its power."
    )
    both = element(
        "div",
        table(columns, rows, aria_label="Accuracy under attack"),
        table(power, flips, aria_label="Power of the attack"),
        class_="pair",
    )
    return section("attack", "Under attack", element("p", intro), both)


def layers(found: Sequence[Mapping[str, Any]]) -> Element:
    """Return a table of the layers' bounds; layers of constant 1 without rounding are greyed.

    Args:
        found: the entry ``layers`` of summary.json.
    """
    names = ("layer", "kind", "input", "engine", "norm of J", "degree", "constant", "rounding")
    columns = [element("th", name, scope="col") for name in names[:4]]
    columns += [element("th", name, scope="col", class_="number") for name in names[4:]]
    rows = []
    for layer in found:
        quiet = is_plain(layer["constant"], layer["rounding"], layer["engine"])
        texts = (layer["kind"], " x ".join(map(str, layer["input_shape"])), layer["engine"] or "-")
        forms = {"norm_bound": ".4g", "degree": "d", "constant": ".6g", "rounding": ".1e"}
        cells = [element("th", layer["path"] or "(model)", scope="row"), *(element("td", text) for text in texts)]
        for name, form in forms.items():
            # "g" writes 0 without an exponent.
            cells.append(number("-" if layer[name] is None else format(layer[name], form if layer[name] else "g")))
        rows.append(element("tr", *cells, class_="quiet" if quiet else None))
    intro = (
        "The product of the constants bounds the network's Lipschitz constant K; the shares of the rounding add up to "
        "the bound E on the rounding of the logits."
    )
    return section("layers", "Bounds of the layers", element("p", intro), table(columns, rows, aria_label="Layers"))


def provenance(run: Run, command: str | None) -> Element:
    """Return the command, hashes and versions behind the figures, and how to check them."""
    stated = {} if command is None else {"command": command}
    check = element(
        "p",
        "This page is a view of certificates.tsv and summary.json beside it, and proves nothing by itself. To certify "
        "the images again and compare every line, run ",
        element("code", "lipnet-certify verify=certificates.tsv"),
        ".",
    )
    return section("provenance", "Provenance", check, _facts({**stated, **_basis(run)}))


def provenances(runs: Sequence[Run], command: str | None) -> Element:
    """Return the command, and the hashes and versions behind the figures of several runs."""
    parts = [element("details", element("summary", run.name), _facts(_basis(run))) for run in runs]
    stated = [] if command is None else [_facts({"command": command})]
    return section("provenance", "Provenance", *stated, *parts)


def _basis(run: Run) -> dict[str, Any]:
    return {name: run.summary[name] for name in _FACTS if name in run.summary}


def _facts(shown: Mapping[str, Any]) -> Element:
    """Return names and values as a list."""
    entries = [
        element("div", element("dt", name.replace("_", " ")), element("dd", element("code", _text(value))))
        for name, value in shown.items()
    ]
    return element("dl", *entries, class_="facts")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return "-" if value is None else str(value)
