"""Write a checkpoint's model as a file that runs without lipnet, or as a folder that others can load.

lipnet-export RUN output=model.onnx
lipnet-export RUN output=my-network
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from lipnet.commands.arguments import with_checkpoint_key
from lipnet.workflows import resolvers as resolvers  # registers them
from lipnet.workflows.errors import clear_errors


@hydra.main(version_base="1.3", config_path="pkg://lipnet.conf", config_name="export")
@clear_errors
def _export(config: DictConfig) -> None:
    """Rebuild the model from its checkpoint, check that an exported file computes the same, and write it."""
    # Imported here, because --help ends before and Lightning takes seconds to import.
    from lipnet.workflows import export_checkpoint
    from lipnet.workflows.settings import check_numbers

    for name, needed in (("ckpt_path", "a checkpoint or a run's folder"), ("output", "a file or a folder to write")):
        if OmegaConf.is_missing(config, name):
            raise ValueError(f"{name} must name {needed}, got nothing: lipnet-export RUN output=model.onnx")
    settings: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    check_numbers({"_target_": "lipnet.workflows.export_checkpoint", **settings})
    export_checkpoint(**settings)


def main() -> None:
    """Run the command; its first argument may be the path of a checkpoint or of a run's folder."""
    sys.argv[1:] = with_checkpoint_key(sys.argv[1:])
    _export()
