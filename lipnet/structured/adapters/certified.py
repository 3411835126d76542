"""Adapters that keep the certificates of a network: orthogonal maps between its layers, and nothing else."""

from collections.abc import Mapping
from typing import Any

from lipnet.structured.adapters.config import OneSidedConfig, config_from_plain
from lipnet.structured.orthogonal_map import OrthogonalMap


def certified_map(settings: Mapping[str, Any], features: int) -> OrthogonalMap:
    """The orthogonal map that an adapter's settings describe, for so many features; it starts as the identity.

    Args:
        settings: plain values: ``structure``, one of ``"OFT"``, ``"BOFT"`` and ``"GSOFT"``, and its settings, such as
            ``block_size``. There is no scale, as a learned magnitude would change the Lipschitz bound, and no side.
        features: channels of what the map is applied to.

    Raises:
        ValueError: for a structure that changes norms, such as LoRA, a setting that there is not, or one that does not
            fit the features.

    Example:
        >>> certified_map({"structure": "GSOFT", "block_size": 4}, 16)
        OrthogonalMap(
          (matrix): StructuredOrthogonal(16, block_size=4, mixings=[1/1, 4/4], block_map='cayley')
        )
    """
    config = config_from_plain(settings)
    if not isinstance(config, OneSidedConfig) or settings.get("scale", False):
        raise ValueError(
            f"{dict(settings)} may change the norms of features, so that no certificate would hold; a certified "
            "network takes the structures OFT, BOFT and GSOFT, without a scale"
        )
    if "side" in settings:
        raise ValueError(f"a map of features has one side alone, got side {settings['side']!r}")
    return OrthogonalMap(config.matrix(features))
