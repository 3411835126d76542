"""Certify a checkpoint: load model and data, write the files, print the tables."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lipnet.certify import Layer, layer_table, rounding_sentence, summary_table
from lipnet.certify.files import REPORT, VIOLATION
from lipnet.certify.partial import check_free
from lipnet.certify.processes import CertifyInProcesses
from lipnet.certify.ranks import certify_in_ranks, process_group
from lipnet.certify.run import Certification, certify_here, run_certification
from lipnet.data import DATAMODULES, ImageDataModule
from lipnet.data.fingerprint import comparable
from lipnet.data.loaders import UnchangedBatches
from lipnet.files import check_places, resolve_path
from lipnet.functional.margins import STANDARD_RADII
from lipnet.metrics.functional import check_radii
from lipnet.models import Checkpoint, load_checkpoint
from lipnet.models.pretrained import WEIGHTS, complete_network, pretrained_file
from lipnet.printing import say
from lipnet.workflows.attacking import CertificateAttack, attack_certificates, attack_tables
from lipnet.workflows.devices import AUTO, device_of
from lipnet.workflows.folders import BEST
from lipnet.workflows.reporting import check_report, reported
from lipnet.workflows.settings import check_number

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
    device: str | Sequence[str] = AUTO,
    radii: Sequence[str] = STANDARD_RADII,
    overwrite: bool = False,
    resume: bool = False,
    attack: CertificateAttack | None = None,
    layers: bool = False,
    report: str | None = None,
    name: str | None = None,
    trust: Sequence[str] = (),
    launched: bool = False,
) -> dict[str, Any]:
    """Certify a checkpoint on the dataset that it was trained on; write the files and print the table.

    Args:
        ckpt_path: a checkpoint of lipnet, or the folder of a run, for its best checkpoint.
        output_dir: destination of certificates.tsv, summary.json and curve.png.
        data: the data module, whose ``eval_batch_size`` becomes ``batch_size``; None for the dataset that the
            checkpoint names.
        data_dir: folder of the dataset's files, if the checkpoint names the dataset.
        split: ``"test"`` or ``"validation"``.
        n_samples: number of samples, from the first one; None for all.
        batch_size: images per forward pass.
        dtype: ``"float64"``: the radii account for rounding; ``"float32"``: they do not.
        device: a device of torch, or ``"auto"``: the accelerator if there is one. For a list of devices, a process for
            each; together they write the same files as one process.
        radii: the radii of the table, as text.
        overwrite: replace certificates that ``output_dir`` already holds.
        resume: continue an interrupted certification in ``output_dir``, if there is one; with ``overwrite``, one with
            other settings is discarded.
        attack: settings of an attack on the written certificates; None for no attack.
        layers: also print the bounds of the layers.
        report: ``"html"`` to also write report.html, a page to look at; or None.
        name: of the network in the printed table; by default, that of its file or of its folder.
        trust: packages of your own whose modules the checkpoint may name; never for a stranger's file.
        launched: True if torchrun or Slurm started this process as the first of several; the others call
            `assist_certification` with the same settings.

    Returns:
        The content of summary.json.

    Raises:
        FileNotFoundError: for a missing checkpoint or missing data.
        FileExistsError: if ``output_dir`` already holds certificates, unless ``overwrite``, or an unfinished
            certification, unless ``overwrite`` or ``resume``.
        OSError: if a folder is in the place of a file to write; nothing is changed.
        ValueError: for a setting out of range, a damaged checkpoint, another dataset than the checkpoint's, or an
            unfinished certification with other settings.
        ChildProcessError: if one of several processes fails or is killed.
        UnsoundCertificatesError: if the attack shows that a certificate is wrong; violation.npz holds the image.
    """
    folder, ckpt_path = resolve_path(output_dir), checkpoint_path(ckpt_path)
    # Settings first: they can be refused before anything is read.
    _check_destination(folder, overwrite, resume, report, attack)
    radii, _ = check_radii(radii)
    devices = [device] if isinstance(device, str) else list(device)
    chosen: dict[str, Any] = {"data": data, "data_dir": data_dir, "split": split, "n_samples": n_samples}
    chosen |= {"batch_size": batch_size, "dtype": dtype, "trust": trust}
    prepare: Callable[[str], Certification] = partial(prepare_certification, ckpt_path, **chosen)
    certification = prepare(devices[0])
    certification.remarks = {"checkpoint": _named_from(folder, ckpt_path)}
    execute = certify_here if len(devices) == 1 else CertifyInProcesses(prepare, devices)
    files: dict[str, Any] = {"radii": radii, "overwrite": overwrite, "resume": resume}
    with process_group() if launched else nullcontext():
        summary = run_certification(certification, folder, execute=certify_in_ranks if launched else execute, **files)
    # All saved networks have files of one name; their folders tell them apart.
    _print_tables(name or (ckpt_path.parent if ckpt_path.name == WEIGHTS else ckpt_path).name, summary, layers)
    with reported(report, certification, folder, summary) as keep:
        if attack is not None:
            settings: dict[str, Any] = {"radii": radii, "on_batch": keep, "expected": summary}
            summary = attack_certificates(certification.model, certification.batches, folder, attack, **settings)
            say(*attack_tables(summary["attack"]))
    say(f"Certificates, summary and curve are in {folder}" + (f"; to look at: {REPORT}" if report else ""))
    return summary


def _check_destination(
    folder: Path, overwrite: bool, resume: bool, report: str | None, attack: CertificateAttack | None
) -> None:
    """Refuse a folder in which the files cannot be written; arguments and errors as for `certify_checkpoint`."""
    check_free(folder, overwrite=overwrite, resume=resume)
    check_report(report, folder, replace=overwrite or resume)
    if attack is not None:
        check_places(folder / VIOLATION)


def _named_from(folder: Path, path: Path) -> str:
    """Return the path of a checkpoint, relative to a folder that holds it: such a folder may be moved."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _print_tables(name: str, summary: Mapping[str, Any], layers: bool) -> None:
    say(summary_table({name: summary}), rounding_sentence(summary))
    if layers:
        say(layer_table([Layer(**layer) for layer in summary["layers"]]))


def assist_certification(ckpt_path: str | Path, **settings: Any) -> None:
    """Certify a share of the batches for the first of several processes, which writes the files.

    Args:
        ckpt_path: as in `certify_checkpoint`.
        settings: further arguments of `prepare_certification`.
    """
    certification = prepare_certification(ckpt_path, **settings)
    with process_group():
        certify_in_ranks(certification, None)


def checkpoint_path(path: str | Path) -> Path:
    """Return the absolute path of a checkpoint.

    Args:
        path: a checkpoint; a run's folder, for its checkpoints/best.ckpt; or a folder that `save_pretrained` wrote, for
            its model.safetensors.

    Raises:
        FileNotFoundError: for a folder without such a checkpoint.
    """
    path = resolve_path(path)
    if not path.is_dir():
        return path
    best = path / BEST
    if best.is_file():
        return best
    complete_network(path)
    if (path / WEIGHTS).is_file():
        return pretrained_file(path)
    raise FileNotFoundError(f"{path} is a folder without {BEST} and {WEIGHTS}: name a checkpoint or a run's folder")


def prepare_certification(
    ckpt_path: str | Path,
    device: str = AUTO,
    *,
    data: ImageDataModule | None = None,
    data_dir: str | None = None,
    split: str = "test",
    n_samples: int | None = None,
    batch_size: int = 250,
    dtype: str = "float64",
    trust: Sequence[str] = (),
) -> Certification:
    """Load model and data, and compute the bounds; arguments and errors as in `certify_checkpoint`."""
    _check_settings(dtype, batch_size, n_samples)
    ckpt_path = checkpoint_path(ckpt_path)
    checkpoint = load_checkpoint(ckpt_path, trust)
    data = data_of_checkpoint(checkpoint, data_dir) if data is None else data
    _check_dataset(checkpoint, data, split)
    data.eval_batch_size = batch_size
    images = data.evaluation_dataset(split)
    count = len(images) if n_samples is None else n_samples
    if not 1 <= count <= len(images):
        raise ValueError(f"n_samples must be from 1 to {len(images)} for the {split} split, got {n_samples}")
    sha256, digests = images.digests(count, batch_size)
    return Certification(
        checkpoint.model.to(device_of(device), DTYPES[dtype]).requires_grad_(False),
        UnchangedBatches(data.evaluation_dataloader(split), images.indices[:count], digests),
        images.indices[:count],
        facts={
            "dataset": data.dataset_name,
            **data.facts(),
            "split": split,
            "data_sha256": sha256,
            "checkpoint_sha256": checkpoint.sha256,
            "batch_size": batch_size,
        },
        class_names=data.facts().get("classes"),
    )


def _check_settings(dtype: str, batch_size: int, n_samples: int | None) -> None:
    """Refuse settings that are wrong for every checkpoint and dataset."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    check_number("batch_size", batch_size, int)
    check_number("n_samples", n_samples, int | None)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")


def data_of_checkpoint(checkpoint: Checkpoint, data_dir: str | None) -> ImageDataModule:
    """Return the data module of the dataset that a checkpoint names."""
    settings = dict(checkpoint.dataset)
    name = settings.pop("name")
    if not isinstance(name, str) or name not in DATAMODULES:
        raise ValueError(f"the checkpoint's dataset {name!r} is none of {', '.join(DATAMODULES)}; name one by data=...")
    # A checkpoint may come from a stranger, so it must choose neither folders nor downloads.
    allowed, facts = DATAMODULES[name].checkpoint_settings, DATAMODULES[name].checkpoint_facts
    settings = {key: value for key, value in settings.items() if key not in facts}
    refused = sorted(settings.keys() - set(allowed))
    if refused:
        raise ValueError(f"a checkpoint may state {', '.join(allowed)} of its dataset, got {refused}")
    if data_dir is not None and name != "digits":
        settings["data_dir"] = data_dir
    return DATAMODULES[name](**settings)


def _check_dataset(checkpoint: Checkpoint, data: ImageDataModule, split: str) -> None:
    """Refuse another dataset than the checkpoint's, and a split that may hold images of its training."""
    trained_on, name = checkpoint.dataset["name"], data.dataset_name
    if name != trained_on:
        raise ValueError(
            f"the checkpoint was trained on {trained_on}, but the data are {name}: certify it on {trained_on}, or "
            "train with CertifiedClassifier(dataset=data.description())"
        )
    here = comparable({key: getattr(data, key) for key in data.settings_behind(split)}, checkpoint.dataset)
    there = {key: checkpoint.dataset.get(key) for key in here}
    if here != there:
        differing = [key for key in here if here[key] != there[key]]
        here, there = ({key: _shortened(each[key]) for key in differing} for each in (here, there))
        raise ValueError(
            f"the checkpoint was trained with a {split} split of {there}, but the data have {here}: "
            "images that it was trained on would be certified; take the files and settings of its training"
        )


def _shortened(value: Any) -> Any:
    """Shorten a long list, such as the names of the classes, to its first entries, for an error."""
    return [*value[:5], "..."] if isinstance(value, list) and len(value) > 5 else value
