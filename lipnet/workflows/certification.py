"""From a checkpoint to its certificates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from lipnet.certify import certify_dataset, summary_table
from lipnet.data import DATAMODULES, ImageDataModule
from lipnet.functional.margins import STANDARD_RADII
from lipnet.models import Checkpoint, load_checkpoint

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def certify_checkpoint(
    ckpt_path: str | Path,
    output_dir: str | Path,
    *,
    data: ImageDataModule | None = None,
    data_dir: str | None = None,
    split: str = "test",
    n_samples: int | None = None,
    batch_size: int = 250,
    dtype: str = "float64",
    device: str = "auto",
    radii: Sequence[str] = STANDARD_RADII,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Certify a checkpoint on the data that it was trained for; write the files and print the table.

    Args:
        ckpt_path: a checkpoint of lipnet.
        output_dir: where certificates.tsv, summary.json and curve.png go.
        data: the data; None for those that the checkpoint names.
        data_dir: where the data's files are, if the checkpoint names the data.
        split: ``"test"`` or ``"validation"``.
        n_samples: the first so many; None for all.
        batch_size: images at once.
        dtype: ``"float64"`` or ``"float32"``: of the arithmetic.
        device: a device of torch, or ``"auto"``: the accelerator if there is one.
        radii: the radii of the table, by their text.
        overwrite: whether certificates that ``output_dir`` already holds are replaced.

    Returns:
        The content of summary.json.

    Raises:
        FileNotFoundError: for a missing checkpoint or missing data.
        FileExistsError: if ``output_dir`` already holds certificates, unless ``overwrite``.
        ValueError: for a setting out of range, a damaged checkpoint, or data that are not the checkpoint's.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, received {dtype!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, received {batch_size}")
    checkpoint = load_checkpoint(ckpt_path)
    data = _data_of(checkpoint, data_dir) if data is None else data
    _check_dataset(checkpoint, data, split)
    data.eval_batch_size = batch_size
    indices = data.evaluation_indices(split)
    count = len(indices) if n_samples is None else n_samples
    if not 1 <= count <= len(indices):
        raise ValueError(f"n_samples must be from 1 to {len(indices)} for the {split} split, received {n_samples}")

    facts = {
        "dataset": data.spec.name,
        "split": split,
        "checkpoint": str(Path(ckpt_path).absolute()),
        "checkpoint_sha256": checkpoint.sha256,
    }
    model = checkpoint.model.to(_device(device), DTYPES[dtype]).requires_grad_(False)
    loader = data.evaluation_dataloader(split)
    summary = certify_dataset(
        model, loader, indices[:count], Path(output_dir), facts=facts, radii=radii, replace=overwrite
    )
    console = Console()
    console.print(summary_table({Path(ckpt_path).name: summary}))
    console.print(f"Certificates, summary and curve are in {output_dir}", soft_wrap=True)
    return summary


def _data_of(checkpoint: Checkpoint, data_dir: str | None) -> ImageDataModule:
    settings = dict(checkpoint.dataset)
    name = settings.pop("name")
    if name not in DATAMODULES:
        raise ValueError(f"the checkpoint's dataset {name!r} is none of {', '.join(DATAMODULES)}; name one by data=...")
    if data_dir is not None and name != "digits":
        settings["data_dir"] = data_dir
    return DATAMODULES[name](**settings)


def _check_dataset(checkpoint: Checkpoint, data: ImageDataModule, split: str) -> None:
    trained_on = checkpoint.dataset["name"]
    if data.spec.name != trained_on:
        raise ValueError(
            f"the checkpoint was trained on {trained_on}, but the data are {data.spec.name}: certify it on {trained_on}"
        )
    here = {"seed": data.seed, "validation_fraction": data.validation_fraction}
    there = {key: checkpoint.dataset.get(key) for key in here}
    if split == "validation" and here != there:
        raise ValueError(
            f"the checkpoint was trained with a validation split of {there}, but the data have {here}: "
            "images that it was trained on would be certified"
        )


def _device(name: str) -> torch.device:
    cpu = torch.device("cpu")
    accelerator = torch.accelerator.current_accelerator(check_available=True) or cpu
    if name == "auto":
        return accelerator
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device must be 'auto' or a device of torch, received {name!r}: {error}") from error
    if device.type not in (cpu.type, accelerator.type):
        raise ValueError(f"device {name!r} is not available on this machine")
    return device
