"""The hub: a folder is uploaded, and loaded from the cache when offline. No network is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from shutil import copytree
from unittest.mock import create_autospec

import pytest
import torch
from torch import nn

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra hub: pip install 'lipnet[hub]'")

from lipnet.models import load_checkpoint, load_pretrained, push_to_hub, save_pretrained  # noqa: E402

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def saved(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder of `save_pretrained`."""
    save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache in a new folder, in the mode of HF_HUB_OFFLINE=1."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put_into_cache(folder: Path, cache: Path, repository: str) -> None:
    """Store a folder as the hub's client stores a downloaded repository."""
    stored = cache / f"models--{repository.replace('/', '--')}"
    copytree(folder, stored / "snapshots" / COMMIT)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(COMMIT)


def test_a_repository_is_loaded_from_the_cache_when_offline(
    saved: Path, offline_cache: Path, tiny_model: nn.Module
) -> None:
    put_into_cache(saved, offline_cache, "owner/tiny")
    x = torch.rand(2, 1, 8, 8)
    for revision in (None, "main", COMMIT):
        assert torch.equal(load_pretrained("owner/tiny", revision=revision)(x), tiny_model(x))


@pytest.mark.usefixtures("offline_cache")
def test_a_repository_that_is_not_there_is_a_clear_error() -> None:
    with pytest.raises(FileNotFoundError, match="no folder owner/tiny, and no repository 'owner/tiny' on the hub"):
        load_pretrained("owner/tiny")


@pytest.mark.parametrize("private", [False, True])
def test_what_is_pushed_can_be_loaded(saved: Path, offline_cache: Path, tiny_model: nn.Module, private: bool) -> None:
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    api.upload_folder.side_effect = lambda **call: put_into_cache(call["folder_path"], offline_cache, call["repo_id"])
    push_to_hub(saved, "owner/tiny", private=private, api=api, commit_message="First weights")
    api.create_repo.assert_called_once_with("owner/tiny", private=private, exist_ok=True)
    call = api.upload_folder.call_args.kwargs
    assert call["commit_message"] == "First weights"
    assert "model.safetensors" in call["allow_patterns"]
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_pretrained("owner/tiny")(x), tiny_model(x))


def test_what_cannot_be_loaded_is_not_pushed(saved: Path) -> None:
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    with pytest.raises(ValueError, match="must be of the form 'owner/name', got 'tiny'"):
        push_to_hub(saved, "tiny", api=api)
    (saved / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        push_to_hub(saved, "owner/tiny", api=api)
    assert not api.method_calls


def test_the_summary_of_another_network_is_not_pushed(saved: Path) -> None:
    api = create_autospec(huggingface_hub.HfApi, instance=True)
    sha256 = load_checkpoint(saved / "model.safetensors").sha256

    def pushed(summary: str) -> bool:
        (saved / "summary.json").write_text(summary)
        push_to_hub(saved, "owner/tiny", api=api)
        return "summary.json" in api.upload_folder.call_args.kwargs["allow_patterns"]

    assert pushed(json.dumps({"checkpoint_sha256": sha256}))
    assert not pushed(json.dumps({"checkpoint_sha256": "0" * 64}))
    assert not pushed("[]")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        pushed("{")


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'lipnet\[hub\]'"):
        load_pretrained("owner/tiny")
