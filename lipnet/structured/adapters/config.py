"""What an adapter is made of, as a plain value: it builds the update of a weight, and goes into the adapter's file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from math import isfinite
from typing import Any

from lipnet.structured.additive import Kronecker, LowRank
from lipnet.structured.displacement import Circulant, LowDisplacementRank, SkewCirculant, Toeplitz
from lipnet.structured.orthogonal import StructuredOrthogonal, boft, check_block_map, gsoft, oft
from lipnet.structured.updates import OrthogonalUpdate, WeightUpdate

_SIDES = ("input", "output")


class AdapterConfig(ABC):
    """The structure of an adapter with its settings; the subclasses are frozen dataclasses of plain values."""

    @abstractmethod
    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        """The update of a weight (out_features, in_features), at its start.

        Raises:
            ValueError: if the settings do not fit the shape.
        """


@dataclass(frozen=True)
class LoRAConfig(AdapterConfig):
    """W' = W + (alpha / rank) B A, see `LowRank`."""

    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        _check_counts(rank=self.rank)
        if type(self.alpha) not in (int, float) or not isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha must be a finite and positive number, got {self.alpha!r}")

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return LowRank(out_features, in_features, self.rank, self.alpha)


@dataclass(frozen=True)
class _OrthogonalConfig(AdapterConfig):
    """What the orthogonal adapters share.

    Attributes:
        block_size: b; it must divide the features that Q acts on.
        scale: learn the magnitude of every output too.
        block_map: ``"cayley"`` or ``"exponential"``.
    """

    block_size: int = 8
    _: KW_ONLY
    scale: bool = True
    block_map: str = "cayley"

    def __post_init__(self) -> None:
        _check_counts(block_size=self.block_size)
        check_block_map(self.block_map)
        if type(self.scale) is not bool:
            raise ValueError(f"scale must be True or False, got {self.scale!r}")

    @abstractmethod
    def matrix(self, features: int) -> StructuredOrthogonal:
        """Q of so many features."""


@dataclass(frozen=True)
class OneSidedConfig(_OrthogonalConfig):
    """W' = W Q^T, or W' = Q W with ``side="output"``, for W in the layout of ``nn.Linear``, (out x in)."""

    side: str = "input"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in _SIDES:
            raise ValueError(f"side must be one of {', '.join(map(repr, _SIDES))}, got {self.side!r}")

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        features = {"output": out_features, "input": in_features}[self.side]
        sides = {self.side: self.matrix(features)}
        return OrthogonalUpdate(out_features, in_features, **sides, scale=self.scale)


@dataclass(frozen=True)
class OFTConfig(OneSidedConfig):
    """W' = W Q^T with OFT's block-diagonal Q, see `oft`; ``side="output"`` for Q W."""

    block_size: int = 16

    def matrix(self, features: int) -> StructuredOrthogonal:
        return oft(features, self.block_size, self.block_map)


@dataclass(frozen=True)
class BOFTConfig(OneSidedConfig):
    """W' = W Q^T with BOFT's Q of butterfly factors, see `boft`; ``side="output"`` for Q W."""

    factors: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(factors=self.factors)

    def matrix(self, features: int) -> StructuredOrthogonal:
        return boft(features, self.block_size, self.factors, self.block_map)


@dataclass(frozen=True)
class GSOFTConfig(OneSidedConfig):
    """W' = W Q^T with GSOFT's Q = P^T L P R, see `gsoft`; ``side="output"`` for Q W.

    The paper writes W' = Q W for W (in x out), which is W Q^T in the layout of ``nn.Linear``.
    """

    def matrix(self, features: int) -> StructuredOrthogonal:
        return gsoft(features, self.block_size, self.block_map)


@dataclass(frozen=True)
class DoubleGSOFTConfig(_OrthogonalConfig):
    """W' = Q_U W Q_V^T with two matrices of GSOFT, for W in the layout of ``nn.Linear``, (out x in)."""

    def matrix(self, features: int) -> StructuredOrthogonal:
        return gsoft(features, self.block_size, self.block_map)

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        output, input = self.matrix(out_features), self.matrix(in_features)
        return OrthogonalUpdate(out_features, in_features, output=output, input=input, scale=self.scale)


@dataclass(frozen=True)
class CirculantConfig(AdapterConfig):
    """W' = W + D with a circulant D, see `Circulant`."""

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return Circulant(out_features, in_features)


@dataclass(frozen=True)
class SkewCirculantConfig(AdapterConfig):
    """W' = W + D with a skew-circulant D, see `SkewCirculant`."""

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return SkewCirculant(out_features, in_features)


@dataclass(frozen=True)
class ToeplitzConfig(AdapterConfig):
    """W' = W + D with a D that is constant along its diagonals, see `Toeplitz`."""

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return Toeplitz(out_features, in_features)


@dataclass(frozen=True)
class KroneckerConfig(AdapterConfig):
    """W' = W + A kron B with balanced factors, see `Kronecker`."""

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return Kronecker(out_features, in_features)


@dataclass(frozen=True)
class LowDisplacementRankConfig(AdapterConfig):
    """W' = W + sum of ``rank`` products of a circulant and a skew-circulant matrix, see `LowDisplacementRank`."""

    rank: int = 1

    def __post_init__(self) -> None:
        _check_counts(rank=self.rank)

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return LowDisplacementRank(out_features, in_features, self.rank)


_STRUCTURES: dict[str, type[AdapterConfig]] = {
    "LoRA": LoRAConfig,
    "OFT": OFTConfig,
    "BOFT": BOFTConfig,
    "GSOFT": GSOFTConfig,
    "DoubleGSOFT": DoubleGSOFTConfig,
    "Circulant": CirculantConfig,
    "SkewCirculant": SkewCirculantConfig,
    "Toeplitz": ToeplitzConfig,
    "Kronecker": KroneckerConfig,
    "LowDisplacementRank": LowDisplacementRankConfig,
}


def config_to_plain(config: AdapterConfig) -> dict[str, Any]:
    """The configuration as plain values: ``"structure"`` and the settings.

    Raises:
        ValueError: for a structure of one's own, which could not be read back.

    Example:
        >>> config_to_plain(LoRAConfig(rank=4))
        {'structure': 'LoRA', 'rank': 4, 'alpha': 16.0}
    """
    names = [name for name, kind in _STRUCTURES.items() if kind is type(config)]
    if not names:
        raise ValueError(f"a file holds the structures {', '.join(_STRUCTURES)}, got {config!r}")
    return {"structure": names[0], **asdict(config)}  # type: ignore[call-overload]


def config_from_plain(plain: Mapping[str, Any]) -> AdapterConfig:
    """The configuration that `config_to_plain` wrote.

    Raises:
        ValueError: for an unknown structure, and for settings that it does not have or that have no meaning.
    """
    settings = dict(plain)
    structure = settings.pop("structure", None)
    if structure not in _STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(_STRUCTURES)}, got {structure!r}")
    try:
        return _STRUCTURES[structure](**settings)
    except TypeError as error:
        raise ValueError(f"{structure} cannot be made with {settings}: {error}") from error


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
