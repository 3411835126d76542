"""Export a checkpoint to a file that runs without lipnet."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipnet.certify import export_onnx, export_program
from lipnet.files import resolve_path
from lipnet.models import load_checkpoint
from lipnet.printing import say
from lipnet.workflows.certification import DTYPES, checkpoint_path

WRITERS = {".onnx": export_onnx, ".pt2": export_program}


def export_checkpoint(
    ckpt_path: str | Path,
    output: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint's model as an ONNX or torch.export file, with its Lipschitz bound in the metadata.

    Args:
        ckpt_path: a checkpoint of lipnet, or the folder of a run, for its best checkpoint.
        output: the file; its ending, ``.onnx`` or ``.pt2``, chooses the format.
        input_shape: (C, H, W) of the images; None for the shape that the model's `Normalize` needs.
        dtype: ``"float32"`` or, for ``.pt2``, ``"float64"``.
        class_names: a name for each logit.
        overwrite: replace an existing file.

    Returns:
        The metadata, including the checkpoint's ``dataset`` and ``checkpoint_sha256``.

    Raises:
        FileNotFoundError: for a missing checkpoint.
        FileExistsError: if ``output`` exists, unless ``overwrite``.
        ValueError: for another ending or dtype, a damaged checkpoint, missing packages that ONNX needs, and models that
            `lipnet.certify.export_onnx` or `lipnet.certify.export_program` refuse.
    """
    output = resolve_path(output)
    if output.suffix not in WRITERS:
        raise ValueError(f"output must end in {' or '.join(WRITERS)}, got {str(output)!r}")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another output, or overwrite=true to replace it")
    checkpoint = load_checkpoint(checkpoint_path(ckpt_path))
    facts = {"dataset": checkpoint.dataset["name"], "checkpoint_sha256": checkpoint.sha256}
    model = checkpoint.model.to(DTYPES[dtype])
    try:
        metadata = WRITERS[output.suffix](model, output, input_shape=input_shape, class_names=class_names, facts=facts)
    except ImportError as error:
        raise ValueError(f"{output} cannot be written: {error}") from error
    bound, units = metadata["lipschitz_bound"], metadata["input_units"]
    say(f"{output}: inputs are {units}, the Lipschitz bound is {bound:.6g}")
    return metadata
