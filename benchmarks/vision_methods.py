"""Methods of adaptation that the vision study compares, at equal numbers of parameters.

Every adapter stands on the 3 x 3 convolutions of the residual blocks, as matrices of m rows (outputs) and n = 9 c
columns (c input channels). It has about 8 n numbers in each: a few more for the learned output scales of the orthogonal
ones, and a sixth more for Double GSOFT, which also rotates the outputs.
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

TARGETS = "stage*.conv*"
# Numbers of an adapter in each weight, as a multiple of its columns.
UNITS = 8


@dataclass(frozen=True)
class BalancedKronecker(AdapterConfig):
    """A Kronecker product A kron B in which A has m / ``units`` numbers, and B ``units`` n."""

    units: int

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return kronecker(self.units, out_features).build(out_features, in_features)


@dataclass(frozen=True)
class Method:
    """A way to adapt a network.

    Attributes:
        label: how the method is printed.
        rates: learning rates to choose from.
        config: the adapter; None without one.
        setting: rank, block size or the like.
        everything: train all parameters.
    """

    label: str
    rates: tuple[float, float]
    config: AdapterConfig | None = None
    setting: str = ""
    everything: bool = False

    @property
    def place(self) -> str:
        """Places where the method changes the network, apart from the new head."""
        if self.everything:
            return "all parameters"
        return "nothing" if self.config is None else "3 x 3 convolutions of all blocks"

    def apply(self, model: nn.Module) -> nn.Module:
        """Prepare a network for the adaptation, in place. Its head is trained in every case."""
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


def _methods(u: int) -> dict[str, Method]:
    rotation, update, full_rank = (1e-3, 5e-3), (1e-3, 5e-3), (3e-4, 1.5e-3)
    blocks = f"{u} blocks of rows"
    return {
        "head": Method("head alone", (3e-3, 1.5e-2)),
        "lora": Method("LoRA", update, LoRAConfig(u - 1), f"rank {u - 1}"),
        "oft": Method("OFT", rotation, OFTConfig(u), f"b = {u}"),
        "boft": Method("BOFT", rotation, BOFTConfig(u // 2, factors=2), f"b = {u // 2}, 2 factors"),
        "gsoft": Method("GSOFT", rotation, GSOFTConfig(u // 2), f"b = {u // 2}, 2 factors"),
        "double_gsoft": Method("Double GSOFT", rotation, DoubleGSOFTConfig(u // 2), f"b = {u // 2}, both sides"),
        "circulant": Method("circulant", full_rank, RowBlocks(CirculantConfig(), u), blocks),
        "toeplitz": Method("Toeplitz", full_rank, RowBlocks(ToeplitzConfig(), u), blocks),
        "kronecker": Method("Kronecker", update, BalancedKronecker(u), f"A of m / {u} numbers"),
        "low_displacement_rank": Method(
            "low displacement rank", full_rank, LowDisplacementRankConfig(u // 2), f"rank {u // 2}"
        ),
        "everything": Method("everything", (3e-4, 1.5e-3), everything=True),
    }


METHODS: dict[str, Method] = _methods(UNITS)
