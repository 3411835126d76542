"""Adapters that keep a network certified: orthogonal maps between its layers."""

from collections.abc import Mapping
from typing import Any

from lipnet.structured.adapters.config import config_from_plain
from lipnet.structured.adapters.orthogonal_config import DoubleGSOFTConfig, OneSidedConfig
from lipnet.structured.orthogonal_map import OrthogonalMap


def certified_map(settings: Mapping[str, Any], features: int) -> OrthogonalMap:
    """Return a new orthogonal map with an adapter's settings; it starts as the identity.

    Args:
        settings: plain values: ``structure``, one of ``"OFT"``, ``"BOFT"``, ``"GSOFT"`` and ``"DoubleGSOFT"``, and
            its settings, such as ``block_size``. A scale is refused, as it would change the Lipschitz bound, and so
            are ``side`` and ``transpose``, as a map has one side only. For Double GSOFT, the map is one of its two maps
            of GSOFT.
        features: number of channels.

    Raises:
        ValueError: for a structure that changes norms, such as LoRA, and for a setting that is unknown or does not fit
            the features.

    Example:
        >>> certified_map({"structure": "GSOFT", "block_size": 4}, 16)
        OrthogonalMap(
          (matrix): StructuredOrthogonal(16, block_size=4, mixings=[1/1, 4/4], block_map='cayley')
        )
    """
    config = config_from_plain(settings)
    if not isinstance(config, OneSidedConfig | DoubleGSOFTConfig) or settings.get("scale", False):
        raise ValueError(
            f"{dict(settings)} may change the norms of features; a certified network takes the structures OFT, "
            "BOFT, GSOFT and DoubleGSOFT, without a scale"
        )
    for setting in ("side", "transpose"):
        if setting in settings:
            raise ValueError(f"{setting} must be left out, as a map has one side only, got {settings[setting]!r}")
    return OrthogonalMap(config.matrix(features))


def has_input_map(settings: Mapping[str, Any], features: int) -> bool:
    """Return whether an adapter also maps the inputs of a layer, here with this many features.

    Double GSOFT does, unless blocks do not divide the features, as for the channels of an image or of its patches.

    Raises:
        ValueError: for an unknown structure or setting, and for an invalid value.
    """
    config = config_from_plain(settings)
    return isinstance(config, DoubleGSOFTConfig) and features % (config.blocks or config.block_size) == 0
