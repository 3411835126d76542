"""Lightning plugin that writes checkpoints atomically and reads them without executing anything."""

from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from lipnet.models.archive import read_archive, write_archive


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoint IO that writes whole files or nothing, with SHA-256, and reads with ``weights_only=True`` only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_archive(path, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read an intact checkpoint onto the CPU; errors as in `lipnet.models.load_checkpoint`."""
        content: dict[str, Any] = read_archive(path)[0]
        return content
