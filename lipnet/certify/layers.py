"""What a certificate rests on, layer by layer: bounds, engines, constants, and shares of the rounding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from lipnet.certify.bound import bound_of, check_running
from lipnet.certify.certificates import reference_tensor
from lipnet.certify.rounding import RoundingBounds, rounding_bounds, run_in_order


@dataclass(frozen=True)
class Layer:
    """A module on the way from the pixels to the logits.

    Attributes:
        path: of the module in the model.
        kind: the name of its class.
        input_shape: of the samples that come in.
        constant: an upper bound on its Lipschitz constant; K is the product of all.
        engine: of an orthogonal convolution, what certificates compute its exponential by; None for other modules.
        norm_bound: upper bound on ||J||, from the filter that is convolved with.
        degree: of the polynomial that stands for the exponential; None where a matrix does.
        interval: the norms that the polynomial is made for. Where ``norm_bound`` exceeds them, ``constant`` is the
            polynomial's maximum up to ``norm_bound`` all the same.
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
    """The modules of a model in the order in which they run, with what its bounds K and E rest on.

    Args:
        model: in evaluation mode.
        image_shape: (C, H, W) of one image.
        rounding: the `rounding_bounds` of the model, if they have already been computed. They are computed for a model
            in float64; one in another dtype has none.

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
    check_running(model)
    return tuple(_layer(path, module, shape, None) for path, module, shape, _ in run_in_order(model, image_shape))


def _layer(path: str, module: nn.Module, shape: tuple[int, ...], rounding: float | None) -> Layer:
    facts = getattr(module, "layer_facts", None)
    known = facts(shape) if callable(facts) else {}
    return Layer(
        path=path,
        kind=type(module).__name__,
        input_shape=shape,
        constant=bound_of(path, module),
        engine=known.get("engine"),
        norm_bound=known.get("norm_bound"),
        degree=known.get("degree"),
        interval=known.get("interval"),
        rounding=rounding,
    )


def layer_table(layers: Sequence[Layer]) -> Table:
    """A table of the layers that are not exact isometries or contractions such as shuffles and sorts."""
    table = Table(
        title="Bounds of the layers",
        caption="constant: Lipschitz bound; rounding: share of E. Modules of constant 1 without rounding are left out",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    # Shapes and intervals are left to the summary, for the table to fit 80 columns.
    for name in ("layer", "kind", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("norm of J", "degree", "constant", "rounding"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in layers:
        if layer.constant == 1 and not layer.rounding and layer.engine is None:
            continue
        numbers = ((layer.norm_bound, ".4g"), (layer.degree, "d"), (layer.constant, ".4g"), (layer.rounding, ".1e"))
        norm, degree, constant, rounding = ("-" if value is None else format(value, how) for value, how in numbers)
        table.add_row(layer.path, layer.kind, layer.engine or "-", norm, degree, constant, rounding)
    return table
