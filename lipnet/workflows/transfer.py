"""Configuration of a transfer: the network of a checkpoint, adapted to other classes."""

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lipnet.data import DatasetSpec, ImageDataModule
from lipnet.data.fingerprint import CONTENTS
from lipnet.models import AdaptedConv, AdaptedHead, CheckpointError, LipConvNet
from lipnet.models.checkpoint import DESCRIPTION, read_checkpoint

_ADAPTED = {"conv": f"lipnet.models.{AdaptedConv.__name__}", "head": f"lipnet.models.{AdaptedHead.__name__}"}
_BASE_CLASSES = "base_out_features"


def starts_from(ckpt_path: Path | str | None, transfer: bool) -> bool:
    """Return True if a run starts from the network of a checkpoint instead of resuming its training.

    A transfer does so, unless the checkpoint comes from a transfer itself: then it resumes that transfer.
    """
    if not transfer or ckpt_path is None or not Path(ckpt_path).is_file():
        return False
    try:
        content, _ = read_checkpoint(ckpt_path)
    except CheckpointError:
        return False
    return not _is_adapted(content[DESCRIPTION]["model"], "conv")


def check_unseen(data: ImageDataModule, trained_on: Mapping[str, Any], path: Path) -> None:
    """Refuse data whose validation or test images the network to start from may have been trained on.

    These images would select and certify a network that has seen them.

    Args:
        data: the data of the transfer.
        trained_on: the description of the data behind the network.
        path: checkpoint of the network, for the error.

    Raises:
        ValueError: for such data.
    """
    if data.unseen_by(trained_on):
        return
    there, here = (
        {key: value for key, value in each.items() if key == CONTENTS or key not in data.checkpoint_facts}
        for each in (trained_on, data.description())
    )
    raise ValueError(
        f"the network of {path} was trained on {there}, and may have seen validation or test images of {here}: "
        "take the same files and the same split, by data.seed and the other settings, or other images"
    )


def transferred_config(config: DictConfig, ckpt_path: Path | None, spec: DatasetSpec) -> dict[str, Any]:
    """Return the configuration of a checkpoint's network, adapted, with as many classes as the data.

    Args:
        config: the run's configuration, with ``model=transferred``.
        ckpt_path: checkpoint with the network to start from, or of the transfer to resume.
        spec: facts about the data, such as the number of classes.

    Raises:
        FileNotFoundError, CheckpointError: for a checkpoint that is missing or damaged.
        ValueError: without a checkpoint, for another network than a LipConvNet, for images of another shape, and for
            another group ``model``.
    """
    stated = OmegaConf.to_container(config.model, resolve=True)
    if not isinstance(stated, dict) or stated.keys() != {"adapter", "frozen", "frozen_head"}:
        raise ValueError(f"a transfer takes its network from ckpt_path and needs model=transferred, got {stated}")
    if ckpt_path is None:
        raise ValueError("a transfer starts from a trained network: ckpt_path=RUN/checkpoints/best.ckpt")
    network = read_checkpoint(ckpt_path)[0][DESCRIPTION]["model"]
    if str(network.get("_target_")).rpartition(".")[2] != LipConvNet.__name__:
        raise ValueError(f"a transfer adapts a lipnet.models.LipConvNet, got {network.get('_target_')} in {ckpt_path}")
    expected = {"in_channels": spec.in_channels, "image_size": spec.image_size}
    received = {key: network.get(key) for key in expected}
    if received != expected:
        raise ValueError(f"the network of {ckpt_path} is for images of {received}, the data are of {expected}")
    frozen = {"conv": stated["frozen"], "head": stated["frozen_head"]}
    layers = {
        part: {
            "_target_": target,
            "_partial_": True,
            "adapter": stated["adapter"],
            "frozen": frozen[part],
            "layer": _layer(network, part),
        }
        for part, target in _ADAPTED.items()
    }
    layers["head"] |= _base_classes(network)
    return {**network, "num_classes": spec.num_classes, **layers}


def _layer(network: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """Return the configuration of the network's own layers, without an adapter."""
    default = signature(LipConvNet).parameters[part].default
    layer: Mapping[str, Any] = network.get(part, {"_target_": f"lipnet.layers.{default.__name__}", "_partial_": True})
    return layer["layer"] if _is_adapted(network, part) else layer


def _base_classes(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting of the head that says how many classes the base has; none in checkpoints without it."""
    resumed = _is_adapted(network, "head")
    count = network["head"].get(_BASE_CLASSES) if resumed else network.get("num_classes")
    return {} if count is None else {_BASE_CLASSES: count}


def _is_adapted(network: Mapping[str, Any], part: str) -> bool:
    layer = network.get(part)
    return isinstance(layer, Mapping) and layer.get("_target_") == _ADAPTED[part]
