"""Steps that all export formats share: plain model, metadata, and comparison of the file with the model."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from lipnet import __version__
from lipnet.certify.arithmetic import ieee_arithmetic
from lipnet.certify.bounds import logit_bounds
from lipnet.certify.trial_run import run_in_order
from lipnet.layers.export import example_batch, export

INPUT_UNITS = "pixels in [0, 1]"
# Entries that not every model has.
_OPTIONAL = ("pairwise_lipschitz", "class_names")
# Batch sizes on which a file is checked before it appears; the model is traced with a batch of 2.
_CHECKED_BATCHES = (1, 2, 7, 32)
# Units in the last place of the largest logit: another order of summation changes some tens of them, another function
# far more.
_UNITS = 200


class Prepared(NamedTuple):
    """Model that is ready for export.

    Attributes:
        model: a copy of the model on the CPU.
        plain: the same function as plain torch operations.
        example: a batch of 2 inputs.
        metadata: the entries to write beside the model.
    """

    model: nn.Module
    plain: fx.GraphModule
    example: Tensor
    metadata: dict[str, Any]


def free_batch() -> tuple[dict[int, Any]]:
    """Return the ``dynamic_shapes`` of an export with one input whose first dimension is free."""
    return ({0: torch.export.Dim("batch")},)


def prepare(
    model: nn.Module,
    input_shape: Sequence[int] | None,
    input_units: str,
    class_names: Sequence[str] | None,
    facts: Mapping[str, Any] | None,
) -> Prepared:
    """Return the plain model and the metadata of a file; arguments and errors as in `export_program`."""
    # The CPU is where every reader can load it. The bound comes from the very weights that are written.
    model = deepcopy(model).cpu()
    bounds = logit_bounds(model)
    finite = isfinite(bounds.lipschitz) and (bounds.pairwise is None or bool(bounds.pairwise.isfinite().all()))
    if not finite:
        raise ValueError("the weights are not finite, or a head has a zero row: an infinite bound certifies nothing")
    example = example_batch(model, 2, input_shape)
    if example.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the model must be in float32 or float64, got {example.dtype}")
    run_in_order(model, tuple(example.shape[1:]))
    plain = export(model, example.shape[1:])
    with torch.no_grad():
        logits = plain(example)
    if logits.dim() != 2:
        raise ValueError(f"the model must return logits (B, classes), got shape {tuple(logits.shape)}")
    classes = logits.shape[1]
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"class_names must have {classes} names, one for each logit, got {len(class_names)}")
    own = {
        "lipschitz_bound": bounds.lipschitz,
        **({} if bounds.pairwise is None else {"pairwise_lipschitz": bounds.pairwise.tolist()}),
        "input_shape": list(example.shape[1:]),
        "input_units": input_units,
        "dtype": str(example.dtype).removeprefix("torch."),
        "num_classes": classes,
        **({} if class_names is None else {"class_names": [str(name) for name in class_names]}),
        "lipnet_version": __version__,
    }
    return Prepared(model, plain, example, {**_plain_facts(facts or {}, {*own, *_OPTIONAL}), **own})


def check_result(run: Callable[[Tensor], Tensor], prepared: Prepared, what: str) -> None:
    """Raise ValueError if the exported model differs from the model by more than rounding.

    Args:
        run: the exported model.
        prepared: the model that was exported.
        what: description of the file, for the error.
    """
    for batch in _CHECKED_BATCHES:
        inputs = example_batch(prepared.model, batch, prepared.example.shape[1:])
        with torch.no_grad(), ieee_arithmetic(inputs.device):
            expected, received = prepared.model(inputs), run(inputs)
        # Logits that cancel have the rounding errors of terms up to K ||x||.
        terms = prepared.metadata["lipschitz_bound"] * float(inputs.flatten(1).norm(dim=1).max())
        largest = max(float(expected.abs().max()), min(1.0, terms))
        tolerance = _UNITS * torch.finfo(expected.dtype).eps * largest
        if received.shape != expected.shape or not bool(((received - expected).abs() <= tolerance).all()):
            raise ValueError(
                f"{what} was not written: for a batch of {batch} it would compute logits that differ from the model's "
                f"by {_difference(received, expected)}, more than rounding explains ({tolerance:.1e})"
            )


def _plain_facts(facts: Mapping[str, Any], reserved: set[str]) -> dict[str, Any]:
    """Return facts as JSON values.

    Raises:
        TypeError: JSON cannot hold them.
        ValueError: one has a reserved name.
    """
    taken = sorted(reserved & {*facts})
    if taken:
        raise ValueError(f"facts must have other names than the file's own entries, got {', '.join(taken)}")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(facts), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"facts must be values that JSON can hold: {error}") from error
    return plain


def _difference(received: Tensor, expected: Tensor) -> str:
    if received.shape != expected.shape:
        return f"their shape, {tuple(received.shape)} for {tuple(expected.shape)}"
    return f"{float((received - expected).abs().max()):.1e}"
