"""Certify a checkpoint: its provable accuracy within each L2 radius.

lipnet-certify RUN                                   # the run's checkpoints/best.ckpt
lipnet-certify ckpt_path=RUN/checkpoints/best.ckpt
lipnet-certify verify=RUN/certificates.tsv
"""

import re
import sys
from collections.abc import Sequence

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from lipnet.files import resolve_path
from lipnet.workflows import resolvers as resolvers  # registers them
from lipnet.workflows.errors import clear_errors


@hydra.main(version_base="1.3", config_path="pkg://lipnet.conf", config_name="certify")
@clear_errors
def _certify(config: DictConfig) -> None:
    """Certify a checkpoint and write certificates.tsv, summary.json and curve.png; or verify such a file."""
    # Imported here, because --help ends before and Lightning takes seconds to import.
    from lipnet.workflows import certify_checkpoint, verify_certificates
    from lipnet.workflows.devices import devices_of_command
    from lipnet.workflows.verification import DIFFERENT

    data = None if config.data is None else instantiate(config.data)
    data_dir = config.paths.data_dir
    if config.verify is not None:
        found = verify_certificates(config.verify, config.ckpt_path, data=data, data_dir=data_dir, device=config.device)
        sys.exit(0 if found.confirmed else DIFFERENT)
    if config.ckpt_path is None:
        raise ValueError("ckpt_path=... is needed: the checkpoint to certify")
    as_stated = ("split", "n_samples", "batch_size", "dtype", "overwrite", "resume", "layers")
    certify_checkpoint(
        config.ckpt_path,
        config.output_dir,
        data=data,
        data_dir=data_dir,
        device=devices_of_command(config.device, config.trainer),
        radii=list(config.radii),
        attack=None if config.attack is None else instantiate(config.attack, _convert_="all"),
        **{name: config[name] for name in as_stated},
    )


def with_checkpoint_key(arguments: Sequence[str]) -> list[str]:
    """Let the first argument of a command be the path of a checkpoint or run: put ``ckpt_path=`` before it.

    Example:
        >>> with_checkpoint_key(["runs/it's.ckpt", "n_samples=5"])
        ["ckpt_path='runs/it\\\\'s.ckpt'", 'n_samples=5']
    """
    first, *others = arguments or [""]
    if not first or first.startswith("-") or ("=" in first and not resolve_path(first).exists()):
        return list(arguments)
    # In Hydra's quotes only quotes are escaped, and backslashes before a quote.
    quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), first)
    return [f"ckpt_path='{quoted}'", *others]


def main() -> None:
    """Run the command; its first argument may be the path of a checkpoint or of a run's folder."""
    sys.argv[1:] = with_checkpoint_key(sys.argv[1:])
    _certify()
