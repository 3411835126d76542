"""Upload pretrained networks to the Hugging Face hub, and download them. Needs the extra ``hub``."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lipnet import __version__
from lipnet.files import resolve_path

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SUMMARY = "summary.json"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_repository(name: str) -> bool:
    """Return whether a string can be the name of a repository: ``owner/name``.

    Example:
        >>> is_repository("somebody/lipconvnet"), is_repository("./lipconvnet"), is_repository("logs/run/checkpoints")
        (True, False, False)
    """
    return _REPOSITORY.fullmatch(name) is not None


def push_to_hub(
    folder: str | Path, repository: str, *, private: bool = False, api: "HfApi | None" = None, **commit: Any
) -> str:
    """Upload a folder written by `save_pretrained` to the Hugging Face hub.

    Only model.safetensors, config.json, README.md and, if it is about this network, summary.json are uploaded. The
    network is loaded first, so that nothing is uploaded that cannot be loaded.

    Args:
        folder: the folder.
        repository: ``owner/name``; created if it does not exist.
        private: create a private repository.
        api: a client with its own endpoint and token; by default, the one that ``hf auth login`` has set up.
        commit: further arguments of ``HfApi.upload_folder``, such as ``commit_message`` or ``revision``.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the repository's name is not of the form ``owner/name``; the network cannot be loaded; or
            summary.json cannot be read.
        FileNotFoundError: the folder holds no network.
        ImportError: without the extra ``hub``.
    """
    # Imported here, because pretrained.py imports this module.
    from lipnet.models.checkpoint import load_checkpoint
    from lipnet.models.pretrained import CARD, CONFIG, WEIGHTS, pretrained_file

    if not is_repository(repository):
        raise ValueError(f"repository must be of the form 'owner/name', got {repository!r}")
    folder = resolve_path(folder)
    checkpoint = load_checkpoint(pretrained_file(folder))
    client = _huggingface_hub().HfApi(library_name="lipnet", library_version=__version__) if api is None else api
    client.create_repo(repository, private=private, exist_ok=True)
    files = [WEIGHTS, CONFIG, CARD, *_own_summary(folder / _SUMMARY, checkpoint.sha256)]
    return str(client.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files, **commit))


def _own_summary(path: Path, checkpoint_sha256: str) -> list[str]:
    """Return the name of a summary's file if it is about this checkpoint; an earlier network may have left it."""
    if not path.is_file():
        return []
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): remove it, or certify the network again") from error
    own = isinstance(summary, dict) and summary.get("checkpoint_sha256") == checkpoint_sha256
    return [path.name] if own else []


def download(repository: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Download files of a repository, unless the local cache has them, and return their folder.

    Raises:
        FileNotFoundError: the hub has no such repository or revision, or it cannot be reached and the cache is empty.
        ImportError: without the extra ``hub``.
    """
    hub = _huggingface_hub()
    settings = {"library_name": "lipnet", "library_version": __version__}
    try:
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=list(files), **settings))
    except (OSError, ValueError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise FileNotFoundError(
            f"there is no folder {repository}, and no repository {repository!r}{at} on the hub: {error}"
        ) from error


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("repositories of the hub need huggingface_hub: pip install 'lipnet[hub]'") from error
    return huggingface_hub
