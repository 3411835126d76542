"""Export a model to a file of torch.export (.pt2)."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipnet.certify.export.prepared import INPUT_UNITS, check_result, free_batch, prepare
from lipnet.files import atomic_write, resolve_path
from lipnet.functional.autocast import without_autocast

METADATA_FILE = "lipnet.json"


def export_program(
    model: nn.Module,
    path: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    input_units: str = INPUT_UNITS,
    class_names: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model with ``torch.export.save`` (.pt2) for a free batch size, and its Lipschitz bound in an extra file.

    ``torch.export.load(path).module()`` runs it where lipnet is not installed. The extra file ``"lipnet.json"`` holds
    the metadata as JSON. The file is first loaded and compared with the model at several batch sizes; then it appears,
    whole.

    Args:
        model: any that `lipnet.layers.export` accepts, to logits, in evaluation mode, float32 or float64; it is not
            changed.
        path: the file; an existing one is replaced.
        input_shape: shape of one input, without the batch; None for the shape that the model's `Normalize` states.
        input_units: units of the input, for the metadata; the bound refers to them.
        class_names: a name for each logit.
        facts: further metadata, of plain values, such as ``dataset`` and ``checkpoint_sha256``.

    Returns:
        The metadata: ``lipschitz_bound`` (from inputs to logits, L2), ``pairwise_lipschitz`` (of the differences of
        two logits, rows of numbers, if the head declares them), ``input_shape``, ``input_units``, ``dtype``,
        ``num_classes``, ``class_names`` (if given), ``lipnet_version``, and the facts.

    Raises:
        ValueError: for another dtype, a model that does not return logits, weights that are not finite, zero rows of a
            `NormalizedLinear`, a wrong number of class names, facts that have the name of another entry, models that
            `lipnet.layers.export` or `lipnet.certify.lipschitz_bound` refuse, and if the file does not compute the same
            as the model.
        TypeError: for a module without a bound, and for facts that are not JSON values.
    """
    path = resolve_path(path)
    prepared = prepare(model, input_shape, input_units, class_names, facts)
    with torch.no_grad(), without_autocast(prepared.example.device):
        program = torch.export.export(prepared.plain, (prepared.example,), dynamic_shapes=free_batch(), strict=False)
    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(prepared.metadata)})
    buffer.seek(0)
    check_result(torch.export.load(buffer).module(), prepared, f"the file {path}")
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())
    return prepared.metadata
