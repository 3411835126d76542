"""Sections of a page that compares several runs."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from lipnet.certify.html.charts import SERIES
from lipnet.certify.html.elements import element, number, section, table
from lipnet.certify.html.runs import Run
from lipnet.certify.html.sections import sortable
from lipnet.functional.margins import round_down


def comparison(runs: Sequence[Run]) -> Element:
    """Return a sortable table of the runs' headline figures, and a warning for each difference of their images."""
    marks = list(dict.fromkeys(text for run in runs for text in run.marks))
    names = ("run", "parameters", "clean %", *marks, "ACR", "K")
    columns = [sortable(name, place) for place, name in enumerate(names)]
    rows = []
    for place, run in enumerate(runs):
        summary = run.summary
        average, bound = summary["average_certified_radius"], summary["lipschitz_bound"]
        shares = [run.clean, *(run.certified(_radius(runs, text)) for text in marks)]
        cells = [
            element("th", element("span", run.name, class_=f"key s{place % SERIES}"), scope="row", data_value=place)
        ]
        cells += [number(f"{summary['parameters']:,}", data_value=summary["parameters"])]
        cells += [number(f"{100 * share:.2f}", data_value=share) for share in shares]
        cells += [number("-" if average is None else round_down(average, 3), data_value=average or 0)]
        cells += [number(f"{bound:.4g}", data_value=bound)]
        rows.append(element("tr", *cells))
    remarks = [element("p", text, class_="alarm") for text in differences(runs)]
    intro = element("p", "Certified accuracy in % at L2 radii; ACR: average certified radius of the correct images.")
    return section("headline", "Headline figures", *remarks, intro, table(columns, rows, aria_label="Runs"))


def differences(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each difference of images or arithmetic, known or possible, which makes it unfair."""
    sentences = {
        "dataset": "The runs certify different datasets",
        "split": "The runs certify different splits",
        "data_sha256": "The runs certify different images",
        "dtype": "The runs are certified in different arithmetic",
    }
    found = []
    for name, sentence in sentences.items():
        values = {run.name: run.summary.get(name) for run in runs}
        if len(set(map(str, values.values()))) > 1:
            found.append(f"{sentence}: {', '.join(f'{key}: {value}' for key, value in values.items())}.")
    if all(run.summary.get("data_sha256") is None for run in runs):
        found.append("No run states the SHA-256 of its images, data_sha256: they may be different images.")
    return found


def _radius(runs: Sequence[Run], text: str) -> float:
    """Return the number of a radius that at least one run states as text."""
    return next(run.marks[text] for run in runs if text in run.marks)
