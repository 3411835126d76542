"""Methods of fine-tuning that the text study compares, at equal numbers of parameters.

Every adapter changes the n x n weights of attention: queries, keys, values and outputs. A budget of u units gives it
u n parameters for each weight. Orthogonal adapters have n more for their output scales, Toeplitz and Kronecker a few
more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any

from torch import nn

from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    CirculantConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    ToeplitzConfig,
    attach,
)
from lipnet.structured.updates import StackedUpdate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TARGETS = ("query", "key", "value", "attention.output.dense")
# Units of each budget: 0.3 % and 1 % of the parameters of MiniLM.
UNITS = {"small": 8, "large": 24}
# Budget of methods without an adapter.
NO_BUDGET = "none"


@dataclass(frozen=True)
class RowBlocks(AdapterConfig):
    """Separate adapters, each with the same configuration, for ``parts`` blocks of rows of a weight.

    The weight fixes the number of parameters of one circulant or Toeplitz update. Blocks of rows multiply it, to meet
    a budget.
    """

    config: AdapterConfig
    parts: int

    def build(self, out_features: int, in_features: int) -> StackedUpdate:
        """Build the update of a weight (out_features, in_features).

        Raises:
            ValueError: unless ``parts`` divides the rows.
        """
        if out_features % self.parts:
            raise ValueError(f"parts must divide the {out_features} rows of the weight, got {self.parts}")
        return StackedUpdate([self.config.build(out_features // self.parts, in_features) for _ in range(self.parts)])


def kronecker(units: int, n: int) -> KroneckerConfig:
    """Return a Kronecker product whose left factor has n / ``units`` entries and is as square as possible."""
    entries = n // units
    columns = next(each for each in range(isqrt(entries), 0, -1) if entries % each == 0)
    return KroneckerConfig(left_shape=(entries // columns, columns))


@dataclass(frozen=True)
class Method:
    """Way to fine-tune a network.

    Attributes:
        label: name of the method on the page.
        rates: learning rates to choose from.
        config: function from units and n to the configuration of the adapter, lipnet's or peft's; None: no adapter.
        everything: train all parameters.
        peft: the configuration is peft's.
        rate_factor: factor on the learning rate of peft's rotations. The head keeps the learning rate.
    """

    label: str
    rates: tuple[float, ...]
    config: Callable[[int, int], Any] | None = None
    everything: bool = False
    peft: bool = False
    rate_factor: float = 1.0

    @property
    def budgets(self) -> tuple[str, ...]:
        return (NO_BUDGET,) if self.config is None else tuple(UNITS)

    @property
    def largest_budget(self) -> str:
        return NO_BUDGET if self.config is None else "large"


def _peft(kind: str, **settings: Any) -> Any:
    import peft

    return getattr(peft, kind)(target_modules=list(TARGETS), **settings)


METHODS = {
    "full": Method("full fine-tuning", (3e-5, 1e-4, 3e-4), everything=True),
    "head": Method("head alone", (1e-3, 3e-3, 1e-2)),
    "lora": Method("LoRA", (3e-4, 1e-3, 3e-3), lambda u, n: LoRAConfig(u // 2, alpha=u)),
    "oft": Method("OFT", (3e-4, 1e-3, 3e-3), lambda u, n: OFTConfig(u)),
    "boft": Method("BOFT (m = 2)", (3e-4, 1e-3, 3e-3), lambda u, n: BOFTConfig(u // 2, factors=2)),
    "gsoft": Method("GSOFT", (3e-4, 1e-3, 3e-3), lambda u, n: GSOFTConfig(u // 2)),
    "double_gsoft": Method("Double GSOFT", (3e-4, 1e-3, 3e-3), lambda u, n: DoubleGSOFTConfig(u // 4)),
    "circulant": Method("circulant", (1e-4, 3e-4, 1e-3), lambda u, n: RowBlocks(CirculantConfig(), u)),
    "toeplitz": Method("Toeplitz", (1e-4, 3e-4, 1e-3), lambda u, n: RowBlocks(ToeplitzConfig(), u)),
    "kronecker": Method("Kronecker", (3e-4, 1e-3, 3e-3), kronecker),
    "low_displacement_rank": Method(
        "low displacement rank", (1e-4, 3e-4, 1e-3), lambda u, n: LowDisplacementRankConfig(u // 2)
    ),
}
# Pairs of the same structure from lipnet and from peft, by the method whose learning rate both take. peft's OFT has no
# scales, and without CUDA its BOFT has one factor. lipnet's skew-symmetric generators are A - A^T with a parameter A,
# so Adam moves them twice as fast as peft's. A rate factor of 2 makes up for that.
PEERS = {
    "lora": ("lora", "peft_lora"),
    "oft": ("oft_without_scale", "peft_oft"),
    "boft": ("boft_one_factor", "peft_boft"),
}
PEER_METHODS = {
    "peft_lora": Method("LoRA", (), lambda u, n: _peft("LoraConfig", r=u // 2, lora_alpha=u), peft=True),
    "oft_without_scale": Method("OFT without scale", (), lambda u, n: OFTConfig(u, scale=False)),
    "peft_oft": Method(
        "OFT without scale",
        (),
        lambda u, n: _peft("OFTConfig", oft_block_size=u, r=0, use_cayley_neumann=False),
        peft=True,
        rate_factor=2.0,
    ),
    "boft_one_factor": Method("BOFT (m = 1)", (), lambda u, n: BOFTConfig(u, factors=1)),
    "peft_boft": Method(
        "BOFT (m = 1)", (), lambda u, n: _peft("BOFTConfig", boft_block_size=u), peft=True, rate_factor=2.0
    ),
}
ALL_METHODS = METHODS | PEER_METHODS


def apply(method: Method, budget: str, model: "PreTrainedModel") -> "PreTrainedModel":
    """Prepare a Hugging Face classifier for a method, in place. Every method trains its new head."""
    model.requires_grad_(method.everything)
    if method.config is not None:
        config = method.config(UNITS[budget], model.config.hidden_size)
        if method.peft:
            import peft

            peft.inject_adapter_in_model(config, model)
        else:
            attach(model, config, [f"*.{target}" for target in TARGETS])
    model.get_submodule("classifier").requires_grad_(True)
    return model


def parameter_groups(method: Method, model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: peft's rotations at their own learning rate, and all others."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    rotations = [value for name, value in trained.items() if "oft_R" in name]
    rest = [value for name, value in trained.items() if "oft_R" not in name]
    groups = [{"params": rest, "lr": rate}, {"params": rotations, "lr": rate * method.rate_factor}]
    return [group for group in groups if group["params"]]
