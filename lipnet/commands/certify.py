"""Certify a checkpoint: its provable accuracy within each L2 radius.

lipnet-certify RUN                                   # the run's checkpoints/best.ckpt
lipnet-certify ckpt_path=RUN/checkpoints/best.ckpt
lipnet-certify pretrained=digits-quickstart          # a network that comes with lipnet
lipnet-certify RUN report=html                       # and a page to look at
lipnet-certify compare=RUN1,RUN2                     # a page that overlays certified runs
lipnet-certify verify=RUN/certificates.tsv
"""

from __future__ import annotations

import atexit
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from lipnet.commands.arguments import with_checkpoint_key, with_compare_list, with_data_place
from lipnet.workflows import resolvers as resolvers  # registers them
from lipnet.workflows.errors import UnconfirmedCertificatesError, clear_errors

if TYPE_CHECKING:
    from lipnet.data import ImageDataModule
    from lipnet.workflows.launch import Launch

# Settings whose type is checked before anything is read: text such as `no` would count as true.
_NUMBERS = ("n_samples", "batch_size", "overwrite", "resume", "layers")


@hydra.main(version_base="1.3", config_path="pkg://lipnet.conf", config_name="certify")
@clear_errors
def _certify(config: DictConfig) -> None:
    """Compare certified runs, verify a file of certificates, or certify a checkpoint and write its files."""
    # Imported here, because --help ends before and Lightning takes seconds to import.
    from lipnet.workflows import verify_certificates
    from lipnet.workflows.folders import remove_unused
    from lipnet.workflows.launch import launch_of_process
    from lipnet.workflows.reporting import compare_runs
    from lipnet.workflows.settings import check_numbers
    from lipnet.workflows.unread import CERTIFICATION, check_read

    atexit.register(remove_unused, Path(HydraConfig.get().runtime.output_dir))
    check_read(config, CERTIFICATION)
    check_numbers({"_target_": "lipnet.workflows.certify_checkpoint", **{each: config[each] for each in _NUMBERS}})
    _check_one_task(config)
    launch = launch_of_process()
    if launch is not None and launch.rank > 0 and (config.compare is not None or config.verify is not None):
        return  # The first of several processes compares and verifies alone.
    if config.compare is not None:
        compare_runs(list(config.compare), config.output_dir, overwrite=config.overwrite)
        return
    data = None if config.data is None else instantiate(config.data)
    data_dir = config.paths.data_dir
    ckpt_path = _checkpoint_of(config)
    if config.verify is not None:
        found = verify_certificates(config.verify, ckpt_path, data=data, data_dir=data_dir, device=config.device)
        if not found.confirmed:
            raise UnconfirmedCertificatesError(f"{config.verify} is not confirmed")
        return
    if ckpt_path is None:
        raise ValueError("ckpt_path must name the checkpoint to certify, or pretrained a network; got neither")
    _certify_or_assist(config, ckpt_path, data, launch)


def _check_one_task(config: DictConfig) -> None:
    """Refuse settings of one task beside another, which would leave them out."""
    left_out = {"compare": ("verify", "attack", "report", "ckpt_path", "pretrained"), "verify": ("attack", "report")}
    for task, others in left_out.items():
        ignored = [name for name in others if config[task] is not None and config[name] is not None]
        if ignored:
            raise ValueError(f"{task}=... does nothing else, got {ignored[0]}=..., too: give two commands")


def _certify_or_assist(
    config: DictConfig, ckpt_path: str | Path, data: ImageDataModule | None, launch: Launch | None
) -> None:
    """Certify a checkpoint; among several processes, only the first one writes, and the others assist it."""
    from lipnet.workflows import certify_checkpoint
    from lipnet.workflows.certification import assist_certification
    from lipnet.workflows.devices import devices_of_command
    from lipnet.workflows.launch import device_of_launch

    device: str | list[str]
    if launch is None:
        device = devices_of_command(config.device, config.trainer)
    else:
        device = device_of_launch(launch, config.device, config.trainer)
    settings = {name: config[name] for name in ("split", "n_samples", "batch_size", "dtype")}
    settings |= {"device": device, "data": data, "data_dir": config.paths.data_dir}
    if launch is not None and launch.rank > 0:
        assist_certification(ckpt_path, **settings)
        return
    certify_checkpoint(
        ckpt_path,
        config.output_dir,
        launched=launch is not None,
        name=config.pretrained,
        radii=list(config.radii),
        attack=None if config.attack is None else instantiate(config.attack, _convert_="all"),
        **{name: config[name] for name in ("overwrite", "resume", "layers", "report")},
        **settings,
    )


def _checkpoint_of(config: DictConfig) -> str | Path | None:
    """Return the checkpoint that ``ckpt_path`` or ``pretrained`` names, or None if neither is set."""
    from lipnet.models.pretrained import pretrained_file

    if config.pretrained is None:
        path: str | None = config.ckpt_path
        return path
    if config.ckpt_path is not None:
        raise ValueError(f"ckpt_path={config.ckpt_path} and pretrained={config.pretrained} exclude each other")
    try:
        return pretrained_file(config.pretrained)
    except ImportError as error:
        raise ValueError(str(error)) from error


def main() -> None:
    """Run the command; its first argument may be the path of a checkpoint or of a run's folder."""
    sys.argv[1:] = with_data_place(with_compare_list(with_checkpoint_key(sys.argv[1:])))
    _certify()
