"""Methods of adaptation that the vision study compares, at equal numbers of parameters.

Every adapter changes the 3 x 3 convolutions of the residual blocks, as matrices with a row for each of m outputs and
n = 9 c columns for c input channels. It has about 8 n parameters for each. Orthogonal adapters have a few more for
their output scales, and Double GSOFT a sixth more, because it also rotates the outputs.
"""

from dataclasses import dataclass

from torch import nn

from benchmarks.text_methods import RowBlocks, kronecker
from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    CirculantConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    ToeplitzConfig,
    attach,
)
from lipnet.structured.updates import WeightUpdate

HEAD = "head"
TARGETS = "stage*.conv*"
# Parameters of an adapter for each weight, as a multiple of its columns.
UNITS = 8


@dataclass(frozen=True)
class BalancedKronecker(AdapterConfig):
    """Kronecker product of A with m / ``units`` entries and B with ``units`` n entries."""

    units: int

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        """Build the update of a weight (out_features, in_features)."""
        return kronecker(self.units, out_features).build(out_features, in_features)


@dataclass(frozen=True)
class Method:
    """Way to adapt a network.

    Attributes:
        label: name of the method on the page.
        rates: learning rates to choose from.
        config: configuration of the adapter; None: no adapter.
        setting: rank, block size or the like, as on the page.
        everything: train all parameters.
    """

    label: str
    rates: tuple[float, float]
    config: AdapterConfig | None = None
    setting: str = ""
    everything: bool = False

    @property
    def place(self) -> str:
        """The part of the network that the method changes, besides the new head."""
        if self.everything:
            return "all parameters"
        return "nothing" if self.config is None else "3 x 3 convolutions of all blocks"

    def apply(self, model: nn.Module) -> nn.Module:
        """Prepare a network for the adaptation, in place. Every method trains its new head."""
        model.requires_grad_(self.everything)
        if self.config is not None:
            attach(model, self.config, TARGETS)
        model.get_submodule("head").requires_grad_(True)
        return model

    def train_mode(self, model: nn.Module) -> nn.Module:
        """Put a network into training mode; frozen normalisations keep their statistics."""
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not self.everything:
                module.eval()
        return model


# Learning rates to choose from: usual ones, and lower ones for updates of full rank and for all parameters. Each number
# of a low displacement rank is in many entries of a weight.
_USUAL, _LOWER, _LOWEST = (1e-3, 5e-3), (3e-4, 1.5e-3), (1e-4, 5e-4)
_HALF = UNITS // 2
_RANK = f"rank {_HALF}"
_BLOCKS = f"{UNITS} blocks of rows"
METHODS = {
    HEAD: Method("head alone", (3e-3, 1.5e-2)),
    "lora": Method("LoRA", _USUAL, LoRAConfig(UNITS - 1), f"rank {UNITS - 1}"),
    "oft": Method("OFT", _USUAL, OFTConfig(UNITS), f"b = {UNITS}"),
    "boft": Method("BOFT", _USUAL, BOFTConfig(_HALF, factors=2), f"b = {_HALF}, 2 factors"),
    "gsoft": Method("GSOFT", _USUAL, GSOFTConfig(_HALF), f"b = {_HALF}, 2 factors"),
    "double_gsoft": Method("Double GSOFT", _USUAL, DoubleGSOFTConfig(_HALF), f"b = {_HALF}, both sides"),
    "circulant": Method("circulant", _LOWER, RowBlocks(CirculantConfig(), UNITS), _BLOCKS),
    "toeplitz": Method("Toeplitz", _LOWER, RowBlocks(ToeplitzConfig(), UNITS), _BLOCKS),
    "kronecker": Method("Kronecker", _USUAL, BalancedKronecker(UNITS), f"A of m / {UNITS} numbers"),
    "low_displacement_rank": Method("low displacement rank", _LOWEST, LowDisplacementRankConfig(_HALF), _RANK),
    "everything": Method("everything", _LOWER, everything=True),
}
