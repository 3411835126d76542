"""Reports for people: figures of a certification, tables of the layers and results, the rounding in words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from lipnet.certify.arithmetic import reference_tensor
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.files import Row
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.certify.rules import bound_of
from lipnet.certify.trial_run import run_in_order
from lipnet.functional.margins import round_down
from lipnet.layers.base import LipschitzModule
from lipnet.metrics.functional import average_certified_radius, certified_accuracy


@dataclass(frozen=True)
class Layer:
    """A module on the way from the pixels to the logits. Symbols: docs/notation.md.

    Attributes:
        path: path of the module in the model.
        kind: name of its class.
        input_shape: shape of its input, for one sample.
        constant: upper bound on its Lipschitz constant; K is the product of all.
        engine: for an orthogonal convolution, how certificates compute its exponential; None for other modules.
        norm_bound: upper bound on ||J||, from the filter that the layer convolves with.
        degree: degree of the polynomial that approximates the exponential; None if the engine uses a matrix.
        interval: largest ||J|| that the polynomial is made for. If ``norm_bound`` exceeds it, ``constant`` is still the
            polynomial's maximum up to ``norm_bound``.
        rounding: its share of E, the bound on the rounding of the logits; None in float32.
    """

    path: str
    kind: str
    input_shape: tuple[int, ...]
    constant: float
    engine: str | None
    norm_bound: float | None
    degree: int | None
    interval: float | None
    rounding: float | None


def layer_report(
    model: nn.Module, image_shape: tuple[int, ...], rounding: RoundingBounds | None = None
) -> tuple[Layer, ...]:
    """Return a row for each module that runs, in order: bound, engine and share of the rounding.

    Args:
        model: in evaluation mode.
        image_shape: (C, H, W) of one image.
        rounding: its `rounding_bounds`, if already computed; otherwise they are computed for a float64 model. Models
            in other dtypes have none.

    Raises:
        TypeError, ValueError: as `lipschitz_bound` and `rounding_bounds`.

    Example:
        >>> from lipnet.layers import SOC, MaxMin
        >>> model = nn.Sequential(SOC(4, 8, eval_terms=8, series="taylor"), MaxMin()).eval()
        >>> convolution, activation = layer_report(model, (4, 16, 16))
        >>> convolution.engine, convolution.degree, convolution.constant, convolution.norm_bound < 1.6
        ('series', 8, 1.0, True)
        >>> activation.kind, activation.constant
        ('MaxMin', 1.0)
    """
    if rounding is None and reference_tensor(model).dtype == torch.float64:
        rounding = rounding_bounds(model, image_shape)
    if rounding is not None:
        return tuple(_layer(each.path, each.module, each.shape, each.contribution) for each in rounding.modules)
    check_computes_as_declared(model)
    return tuple(_layer(run.path, run.module, run.shape, None) for run in run_in_order(model, image_shape))


def _layer(path: str, module: nn.Module, shape: tuple[int, ...], rounding: float | None) -> Layer:
    """Return the row of a module, with the ``layer_facts`` that it states, if any."""
    known = module.layer_facts(shape) if isinstance(module, LipschitzModule) else {}
    exponential = {name: known.get(name) for name in ("engine", "norm_bound", "degree", "interval")}
    return Layer(path, type(module).__name__, shape, bound_of(path, module), **exponential, rounding=rounding)


def is_plain(constant: float | None, rounding: float | None, engine: str | None) -> bool:
    """Tell whether a module is 1-Lipschitz and exact, such as a shuffle; arguments as in `Layer`."""
    return constant == 1 and not rounding and engine is None


def layer_table(layers: Sequence[Layer]) -> Table:
    """Return a table of the layers, without exact 1-Lipschitz ones such as shuffles and sorts."""
    caption = "constant: Lipschitz bound; rounding: share of E. Modules of constant 1 without rounding are left out"
    spacing: Any = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
    table = Table(title="Bounds of the layers", caption=caption, **spacing)
    # Shapes and intervals are left to the summary, so that the table fits 80 columns.
    for name in ("layer", "kind", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("norm of J", "degree", "constant", "rounding"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        if is_plain(layer.constant, layer.rounding, layer.engine):
            continue
        numbers = ((layer.norm_bound, ".4g"), (layer.degree, "d"), (layer.constant, ".4g"), (layer.rounding, ".1e"))
        columns = ("-" if value is None else format(value, form) for value, form in numbers)
        table.add_row(Text(layer.path), layer.kind, layer.engine or "-", *columns)
    return table


def figures_of(rows: Sequence[Row], radii: Sequence[str]) -> dict[str, Any]:
    """Return clean and certified accuracy and the average certified radius, from the radii **as written**.

    Args:
        rows: the certificates.
        radii: the radii of certified accuracy, as text.

    Returns:
        Entries of summary.json; accuracies are fractions.
    """
    radius, correct = radii_of(rows)
    shares = certified_accuracy(radius, correct, radii).tolist()
    return {
        "n_samples": len(rows),
        "clean_accuracy": float(correct.double().mean()),
        "certified_accuracy": dict(zip(radii, shares, strict=True)),
        # Without correct samples there is no average, and JSON has no NaN.
        "average_certified_radius": float(average_certified_radius(radius, correct)) if bool(correct.any()) else None,
    }


def same_figure(stated: Any, found: Any) -> bool:
    """Compare two figures as JSON, in which true is not 1; means up to the rounding of another machine's sums."""
    if isinstance(stated, float) and isinstance(found, float):
        return isclose(stated, found, rel_tol=1e-12)
    return json.dumps(stated, sort_keys=True) == json.dumps(found, sort_keys=True)


def radii_of(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Return the radii as written, float64 (n,), and whether the predictions are correct, bool (n,)."""
    radius = torch.tensor([float(row.radius) for row in rows], dtype=torch.float64)
    return radius, torch.tensor([bool(row.correct) for row in rows])


def summary_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return a table of clean and certified accuracy per radius, in per cent, with a row for each named summary.

    A radius that a summary lacks is shown as "-".
    """
    table = Table(
        title="Accuracy in %: clean, and certified at L2 radii (pixels in [0, 1])",
        caption="ACR: average certified radius of the correct samples",
        box=SIMPLE_HEAD,
        # Leave room for the names in a terminal of 80 columns.
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    radii = list(dict.fromkeys(radius for summary in rows.values() for radius in summary["certified_accuracy"]))
    for name in ("params", "clean", *radii, "ACR"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, summary in rows.items():
        shares = [summary["clean_accuracy"], *(summary["certified_accuracy"].get(radius) for radius in radii)]
        radius = summary["average_certified_radius"]
        average = "-" if radius is None else round_down(radius, 3)
        # As a Text, because rich would take a name such as "out[seed]" for markup.
        texts = ("-" if share is None else f"{100 * share:.2f}" for share in shares)
        table.add_row(Text(name), f"{summary['parameters']:,}", *texts, average)
    return table


def rounding_sentence(summary: Mapping[str, Any]) -> str:
    """Say in words whether the radii of a summary account for rounding, and by how much.

    Example:
        >>> rounding_sentence({"dtype": "float32", "rounding": {"covered": False}})
        'Rounding in float32 is not covered: the radii are those of exact arithmetic.'
    """
    rounding = summary["rounding"]
    if not rounding["covered"]:
        return f"Rounding in {summary['dtype']} is not covered: the radii are those of exact arithmetic."
    cost = "no bound on it is known, so all radii are 0"
    if rounding["logits"] is not None:
        logits, radius = (_number(rounding[name]) for name in ("logits", "radius"))
        cost = f"computed logits are within {logits} of exact ones, which takes at most {radius} of a radius"
    measured = rounding["measured"]
    double, single = (_number(measured[name]) for name in ("float64", "float32"))
    images = "1 image" if measured["images"] == 1 else f"{measured['images']} images"
    return (
        f"Rounding is covered: {cost}. Measured on {images}, not proved: as it is deployed, the model is within "
        f"{double} of the certified logits in float64, and within {single} in float32."
    )


def _number(value: float | None) -> str:
    return "an unknown distance" if value is None else f"{value:.1e}"
