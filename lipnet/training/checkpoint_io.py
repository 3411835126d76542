"""How Lightning writes and reads checkpoints here: whole files, and nothing executed from them."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lipnet.files import whole_file
from lipnet.models.checkpoint import read_archive


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads it back with ``weights_only=True`` alone."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with whole_file(Path(path)) as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read an intact checkpoint onto the CPU; errors as in `lipnet.models.load_checkpoint`."""
        content: dict[str, Any] = read_archive(path)[0]
        return content
