"""Adapters for models of plain torch: attach, train, switch, scale, save, load, merge and detach them."""

from lipnet.structured.adapters.attachment import attach, detach, merge
from lipnet.structured.adapters.certified import certified_map, has_input_map
from lipnet.structured.adapters.config import (
    BottleneckConfig,
    CirculantConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    SkewCirculantConfig,
    ToeplitzConfig,
)
from lipnet.structured.adapters.config_base import AdapterConfig
from lipnet.structured.adapters.files import load_adapter, save_adapter
from lipnet.structured.adapters.orthogonal_config import BOFTConfig, DoubleGSOFTConfig, GSOFTConfig, OFTConfig
from lipnet.structured.adapters.state import attached
from lipnet.structured.adapters.switching import scale_adapter, use
from lipnet.structured.adapters.table import describe

__all__ = [
    "AdapterConfig",
    "BOFTConfig",
    "BottleneckConfig",
    "CirculantConfig",
    "DoubleGSOFTConfig",
    "GSOFTConfig",
    "KroneckerConfig",
    "LoRAConfig",
    "LowDisplacementRankConfig",
    "OFTConfig",
    "SkewCirculantConfig",
    "ToeplitzConfig",
    "attach",
    "attached",
    "certified_map",
    "describe",
    "detach",
    "has_input_map",
    "load_adapter",
    "merge",
    "save_adapter",
    "scale_adapter",
    "use",
]
