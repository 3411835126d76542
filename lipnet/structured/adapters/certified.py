"""Adapters that keep the certificates of a network: orthogonal maps between its layers."""

from collections.abc import Mapping
from typing import Any

from lipnet.structured.adapters.config import DoubleGSOFTConfig, OneSidedConfig, config_from_plain
from lipnet.structured.orthogonal_map import OrthogonalMap


def certified_map(settings: Mapping[str, Any], features: int) -> OrthogonalMap:
    """Return a new orthogonal map with an adapter's settings; it starts as the identity.

    Args:
        settings: plain values: ``structure``, one of ``"OFT"``, ``"BOFT"``, ``"GSOFT"`` and ``"DoubleGSOFT"``, and
            its settings, such as ``block_size``. A learned scale would change the Lipschitz bound, and a map has no
            sides: neither is accepted. Each of the two maps of Double GSOFT is a map of GSOFT.
        features: number of channels.

    Raises:
        ValueError: for a structure that changes norms, such as LoRA, for an unknown setting, and for one that does not
            fit the features.

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
            raise ValueError(f"a map of features has one side alone, got {setting} {settings[setting]!r}")
    return OrthogonalMap(config.matrix(features))


def has_input_map(settings: Mapping[str, Any], features: int) -> bool:
    """Return whether an adapter also maps the inputs of a layer, here with this many features.

    Double GSOFT does, unless the inputs have fewer features than a block, as the pixels of an image do.

    Raises:
        ValueError: for an unknown structure or setting, and for a value that makes no sense.
    """
    config = config_from_plain(settings)
    return isinstance(config, DoubleGSOFTConfig) and features >= (config.blocks or config.block_size)
