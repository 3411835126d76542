"""Base class of the datasets that are read from official files."""

from pathlib import Path
from typing import Any

from lipnet.data.base import ImageDataModule
from lipnet.files import resolve_path


class OfficialFiles(ImageDataModule):
    """Base class of data modules on official files; see :class:`lipnet.data.ImageDataModule` for other arguments.

    Args:
        data_dir: the folder that contains the official files, or their official folder.
        settings: the arguments of :class:`lipnet.data.ImageDataModule`.
    """

    def __init__(self, *, data_dir: str | Path, **settings: Any) -> None:
        super().__init__(**settings)
        self.data_dir = resolve_path(data_dir)

    def missing_files(self, folder: Path, names: list[str]) -> list[str]:
        """Return the names of the files that a folder lacks."""
        return [name for name in names if not (folder / name).is_file()]

    def check_present(self, folder: Path, names: list[str]) -> None:
        """Raise FileNotFoundError if a folder lacks files; the message names them and says how to provide them."""
        missing = self.missing_files(folder, names)
        if missing:
            raise FileNotFoundError(
                f"{self.dataset_name} was looked for in {folder}, which lacks {', '.join(missing)}. Put the official "
                "files there, or name the folder that holds them with data.data_dir=..., or fetch them with "
                "data.download=true on a machine with network access"
            )

    def damaged(self, path: Path) -> OSError:
        """Return the error for a file that differs from the official one."""
        return OSError(
            f"damaged {self.dataset_name} file: {path}. Remove it, and let data.download=true fetch it again"
        )
