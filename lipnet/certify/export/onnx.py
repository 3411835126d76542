"""Export a model to an ONNX file."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.certify.export.prepared import INPUT_UNITS, Prepared, check_result, free_batch, prepare
from lipnet.files import atomic_write, resolve_path
from lipnet.functional.autocast import without_autocast

# Imported by name where needed: they may be missing, and have no type annotations.
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A protocol buffer holds less than 2 GiB; leave some room for the graph.
_LARGEST = 2**31 - 2**20


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    input_units: str = INPUT_UNITS,
    class_names: Sequence[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model as an ONNX file with a free batch size, and its Lipschitz bound in the file's metadata.

    The file has one input ``"input"``, (B, *input_shape), and one output ``"logits"``, (B, classes). onnxruntime first
    runs it at several batch sizes, and the results are compared with the model's. Then the file appears, whole.

    The file's metadata have the keys that this function returns. Their values are text: strings as they are, other
    values as JSON, so that ``float(metadata["lipschitz_bound"])`` is exactly the bound.

    Args:
        model: any that `lipnet.layers.export` accepts, to logits, in evaluation mode, float32; it is not changed.
        path, input_shape, input_units, class_names, facts: as in `export_program`.

    Returns:
        The metadata, as `export_program`.

    Raises:
        ImportError: if a package that ONNX needs is missing; the message says how to install it.
        ValueError: for a dtype other than float32, a model of 2 GiB or more, and as `export_program`.
        TypeError: as `export_program`.
    """
    path = resolve_path(path)
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(f"writing ONNX files needs {', '.join(missing)}: pip install 'lipnet[onnx]'")
    prepared = prepare(model, input_shape, input_units, class_names, facts)
    dtype = prepared.example.dtype
    if dtype != torch.float32:
        raise ValueError(
            f"the model must be in float32, which all runtimes have, got {dtype}: "
            "call model.float() first, or use export_program"
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in prepared.plain.state_dict().values())
    if size >= _LARGEST:
        raise ValueError(f"the model's constants must take less than 2 GiB, the limit of ONNX files, got {size} bytes")
    content = _content(prepared)
    session = import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])

    check_result(run, prepared, f"the ONNX file {path}")
    with atomic_write(path) as file:
        file.write(content)
    return prepared.metadata


def _content(prepared: Prepared) -> bytes:
    """Return the content of the ONNX file, with the metadata."""
    with without_autocast(prepared.example.device):
        program = torch.onnx.export(
            prepared.plain,
            (prepared.example,),
            dynamo=True,
            dynamic_shapes=free_batch(),
            input_names=["input"],
            output_names=["logits"],
            verbose=False,
            # The optimizer rounds factors within 1e-5 of 1 to 1, as polynomials have: the function would change.
            optimize=False,
        )
    assert program is not None
    tidy = import_module("onnxscript.optimizer")
    tidy.fold_constants(program.model)
    tidy.remove_unused_nodes(program.model)
    for key, value in prepared.metadata.items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value)
    content: bytes = program.model_proto.SerializeToString()
    return content
