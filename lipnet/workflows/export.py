"""Export a checkpoint: to a file that runs without lipnet, or to a folder to share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipnet.certify import export_onnx, export_program
from lipnet.certify.files import SUMMARY, complete_files
from lipnet.certify.html import read_run
from lipnet.files import resolve_path
from lipnet.models import Checkpoint, load_checkpoint, save_pretrained
from lipnet.models.compact import is_compact
from lipnet.printing import say
from lipnet.workflows.certification import DTYPES, checkpoint_path
from lipnet.workflows.folders import CHECKPOINTS

WRITERS = {".onnx": export_onnx, ".pt2": export_program}


def export_checkpoint(
    ckpt_path: str | Path,
    output: str | Path,
    *,
    input_shape: Sequence[int] | None = None,
    dtype: str = "float32",
    class_names: Sequence[str] | None = None,
    name: str | None = None,
    compact: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a checkpoint's model as an ONNX or torch.export file with its Lipschitz bound, or as a folder to share.

    The folder is that of `lipnet.models.save_pretrained`. Its model card has the certified figures of the run's
    summary.json, if the checkpoint is in a run's folder that has one, and if they are those of its certificates.tsv.

    Args:
        ckpt_path: a checkpoint of lipnet, or the folder of a run, for its best checkpoint.
        output: the file, whose ending ``.onnx`` or ``.pt2`` chooses the format; without an ending, the folder.
        input_shape: (C, H, W) of the images, for a file; None for the shape that the model's `Normalize` needs.
        dtype: ``"float32"`` or, for ``.pt2``, ``"float64"``. A folder keeps the dtype of the checkpoint.
        class_names: a name for each logit, for a file; None for the names in the checkpoint, if it has any.
        name: for a folder, the name in the card's example of `load_pretrained`; None for the folder's name.
        compact: for a folder, smaller weights, as `lipnet.models.save_pretrained` describes. As they are rounded, the
            card has no figures. For a card with figures, certify the folder into itself and export it again.
        overwrite: replace existing files.

    Returns:
        The metadata, including the checkpoint's ``dataset`` and ``checkpoint_sha256``.

    Raises:
        FileNotFoundError: for a missing checkpoint, or certificates missing beside a summary.
        FileExistsError: if ``output`` exists, unless ``overwrite``.
        ValueError: for another ending or dtype, settings of a file beside a folder or the other way round, a damaged
            checkpoint, a summary of another checkpoint or with other figures than the certificates', missing packages
            that ONNX needs, and models that `lipnet.certify.export_onnx` or `lipnet.certify.export_program` refuse.
    """
    output = resolve_path(output)
    if not output.suffix:
        if input_shape is not None or class_names is not None or dtype != "float32":
            raise ValueError(
                f"input_shape, dtype and class_names are for files that end in {' or '.join(WRITERS)}, got the folder "
                f"{str(output)!r}"
            )
        return _export_folder(checkpoint_path(ckpt_path), output, name, compact, overwrite)
    if name is not None or compact:
        raise ValueError(f"name and compact are for folders, got the file {str(output)!r}")
    if output.suffix not in WRITERS:
        raise ValueError(
            f"output must end in {' or '.join(WRITERS)}, or be a folder's name without a dot, got {str(output)!r}"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another output, or overwrite=true to replace it")
    checkpoint = load_checkpoint(checkpoint_path(ckpt_path))
    facts = _facts(checkpoint)
    if class_names is None:
        class_names = checkpoint.dataset.get("classes")
    model = checkpoint.model.to(DTYPES[dtype])
    try:
        metadata = WRITERS[output.suffix](model, output, input_shape=input_shape, class_names=class_names, facts=facts)
    except ImportError as error:
        raise ValueError(f"{output} cannot be written: {error}") from error
    bound, units = metadata["lipschitz_bound"], metadata["input_units"]
    say(f"{output}: inputs are {units}, the Lipschitz bound is {bound:.6g}")
    return metadata


def _export_folder(ckpt_path: Path, folder: Path, name: str | None, compact: bool, overwrite: bool) -> dict[str, Any]:
    checkpoint = load_checkpoint(ckpt_path)
    run = ckpt_path.parent.parent if ckpt_path.parent.name == CHECKPOINTS else ckpt_path.parent
    complete_files(run)
    # Weights that are rounded now have other figures than the run.
    certified = (run / SUMMARY).is_file() and (not compact or is_compact(checkpoint.model))
    # Read with the certificates, which must confirm the figures.
    summary = read_run(run).summary if certified else None
    save_pretrained(checkpoint, folder, name=name, summary=summary, compact=compact, overwrite=overwrite)
    figures = "without certified figures" if summary is None else f"with the certified figures of {run / SUMMARY}"
    say(f"{folder}: weights, configuration and model card, {figures}")
    return _facts(checkpoint)


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"dataset": checkpoint.dataset["name"], "checkpoint_sha256": checkpoint.sha256}
