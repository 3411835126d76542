"""Configurations of adapters: plain values, stored in adapter files, that build the updates of weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, ClassVar

from lipnet.structured.additive import AdditiveUpdate, Kronecker, LowRank
from lipnet.structured.bottleneck import ACTIVATIONS, Bottleneck, Dense
from lipnet.structured.displacement import Circulant, LowDisplacementRank, SkewCirculant, Toeplitz
from lipnet.structured.orthogonal import StructuredOrthogonal, boft, check_block_map, gsoft, oft
from lipnet.structured.updates import OrthogonalUpdate, WeightUpdate


class AdapterConfig(ABC):
    """The structure of an adapter and its settings. Subclasses are frozen dataclasses of plain values.

    Attributes:
        merges: as in `WeightUpdate`.
    """

    merges: ClassVar[bool] = True

    @abstractmethod
    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        """Return a new update of a weight (out_features, in_features).

        Raises:
            ValueError: if the settings do not fit the shape.
        """


@dataclass(frozen=True)
class _AdditiveConfig(AdapterConfig):
    """W' = W + D. The settings are the arguments of D's class.

    Attributes:
        update: the class of D.
    """

    update: ClassVar[type[AdditiveUpdate]]

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return self.update(out_features, in_features, **asdict(self))


@dataclass(frozen=True)
class LoRAConfig(_AdditiveConfig):
    """W' = W + (alpha / rank) B A, see `LowRank`."""

    update = LowRank
    rank: int = 8
    alpha: float = 16.0

    def __post_init__(self) -> None:
        _check_counts(rank=self.rank)
        if type(self.alpha) not in (int, float) or not isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha must be a finite and positive number, got {self.alpha!r}")


@dataclass(frozen=True)
class _OrthogonalConfig(AdapterConfig):
    """The settings of all orthogonal adapters.

    Attributes:
        block_size: b; it must divide the features that Q acts on.
        blocks: number of blocks, instead of their size; it must divide the features.
        scale: also learn the magnitude of each output.
        block_map: ``"cayley"`` or ``"exponential"``.
        transpose: multiply W by Q^T on the input side. False multiplies by Q, as GSOFT's published code does.
    """

    block_size: int = 8
    _: KW_ONLY
    blocks: int | None = None
    scale: bool = True
    block_map: str = "cayley"
    transpose: bool = True
    # Class attributes, not fields: a subclass with such a setting makes it a field; the others keep these values.
    side = "both"
    factors = 1

    def __post_init__(self) -> None:
        _check_counts(block_size=self.block_size, factors=self.factors)
        if self.blocks is not None:
            _check_counts(blocks=self.blocks)
        check_block_map(self.block_map)
        for name in ("scale", "transpose"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        output = self.matrix(out_features) if self.side != "input" else None
        input = self.matrix(in_features) if self.side != "output" else None
        return OrthogonalUpdate(
            out_features, in_features, output=output, input=input, scale=self.scale, transpose=self.transpose
        )

    def matrix(self, features: int) -> StructuredOrthogonal:
        """Return a new Q for vectors of this many features."""
        if self.blocks is not None and features % self.blocks:
            raise ValueError(f"features must be divisible by {self.blocks}, the number of blocks, got {features}")
        return self.matrix_of_blocks(features, features // self.blocks if self.blocks else self.block_size)

    @abstractmethod
    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        """Return a new Q with blocks of this size."""


@dataclass(frozen=True)
class OneSidedConfig(_OrthogonalConfig):
    """W' = W Q^T, or W' = Q W with ``side="output"``, for W in the layout of ``nn.Linear``, (out x in)."""

    side: str = "input"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in ("input", "output"):
            raise ValueError(f"side must be one of 'input', 'output', got {self.side!r}")
        if self.side == "output" and not self.transpose:
            raise ValueError("transpose=False needs side='input', got side='output', which always multiplies by Q")


@dataclass(frozen=True)
class OFTConfig(OneSidedConfig):
    """W' = W Q^T with OFT's block-diagonal Q, see `oft`; Q W with ``side="output"``."""

    block_size: int = 16

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return oft(features, block_size, self.block_map)


@dataclass(frozen=True)
class BOFTConfig(OneSidedConfig):
    """W' = W Q^T with BOFT's Q of butterfly factors, see `boft`; Q W with ``side="output"``."""

    factors: int = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return boft(features, block_size, self.factors, self.block_map)


@dataclass(frozen=True)
class GSOFTConfig(OneSidedConfig):
    """W' = W Q^T with GSOFT's Q = P^T L P R, see `gsoft`; Q W with ``side="output"``.

    The paper writes W' = Q W for W (in x out), which is W Q^T in the layout of ``nn.Linear``. Its published code
    computes W (Q x) instead, W' = W Q: use ``transpose=False`` for weights trained with it. That code has
    K = (A - A^T) / 2 where lipnet has K = A - A^T. To import its parameters into an update of ``transpose=False``, set

    - ``input.generators[0] = gsoft_R / 2`` and ``input.generators[1] = gsoft_L / 2``,
    - ``scale = gsoft_s``.

    Attributes:
        factors: number m of block-diagonal factors; 1 + ceil(log_b(n / b)) of them make Q dense.
    """

    _: KW_ONLY
    factors: int = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return gsoft(features, block_size, self.block_map, self.factors)


@dataclass(frozen=True)
class DoubleGSOFTConfig(_OrthogonalConfig):
    """W' = Q_U W Q_V^T with two matrices of GSOFT, for W in the layout of ``nn.Linear``, (out x in).

    The published code computes Q_U W Q_V: use ``transpose=False`` for it, and see `GSOFTConfig`.
    """

    factors = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return gsoft(features, block_size, self.block_map, self.factors)


class CirculantConfig(_AdditiveConfig):
    """W' = W + D with a circulant D, see `Circulant`."""

    update = Circulant


class SkewCirculantConfig(_AdditiveConfig):
    """W' = W + D with a skew-circulant D, see `SkewCirculant`."""

    update = SkewCirculant


class ToeplitzConfig(_AdditiveConfig):
    """W' = W + D with D constant along its diagonals, see `Toeplitz`."""

    update = Toeplitz


@dataclass(frozen=True)
class KroneckerConfig(_AdditiveConfig):
    """W' = W + A kron B, see `Kronecker`.

    Attributes:
        left_shape: shape of A; None for balanced factors.
    """

    update = Kronecker
    left_shape: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.left_shape is None:
            return
        if not isinstance(self.left_shape, list | tuple) or len(self.left_shape) != 2:
            raise ValueError(f"left_shape must be two whole numbers or None, got {self.left_shape!r}")
        _check_counts(**dict(zip(("left_shape[0]", "left_shape[1]"), self.left_shape, strict=True)))
        object.__setattr__(self, "left_shape", tuple(self.left_shape))  # JSON has lists only


@dataclass(frozen=True)
class LowDisplacementRankConfig(_AdditiveConfig):
    """W' = W + sum of ``rank`` products of a circulant and a skew-circulant matrix, see `LowDisplacementRank`."""

    update = LowDisplacementRank
    rank: int = 1

    def __post_init__(self) -> None:
        _check_counts(rank=self.rank)


@dataclass(frozen=True)
class BottleneckConfig(AdapterConfig):
    """y + U act(D y) after a linear layer with outputs y, see `Bottleneck`. It cannot be merged into a weight.

    Attributes:
        width: rows of D and columns of U.
        projection: structure of D and U, an additive configuration such as ``KroneckerConfig()``; None for dense ones.
        activation: ``"gelu"``, ``"relu"``, ``"silu"`` or ``"tanh"``.
        bias: learn biases of both projections.
    """

    merges = False
    width: int = 64
    _: KW_ONLY
    projection: AdapterConfig | None = None
    activation: str = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        _check_counts(width=self.width)
        if isinstance(self.projection, Mapping):  # from JSON
            object.__setattr__(self, "projection", config_from_plain(self.projection))
        if self.projection is not None and not isinstance(self.projection, _AdditiveConfig):
            raise ValueError(f"projection must be an additive configuration or None, got {self.projection!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if type(self.bias) is not bool:
            raise ValueError(f"bias must be True or False, got {self.bias!r}")

    def build(self, out_features: int, in_features: int) -> Bottleneck:
        down, up = self._projection(self.width, out_features), self._projection(out_features, self.width)
        return Bottleneck(out_features, in_features, down, up, self.activation, self.bias)

    def _projection(self, rows: int, columns: int) -> AdditiveUpdate:
        if self.projection is None:
            return Dense(rows, columns)
        built = self.projection.build(rows, columns)
        assert isinstance(built, AdditiveUpdate)
        return built


_CONFIGS = (
    *(LoRAConfig, OFTConfig, BOFTConfig, GSOFTConfig, DoubleGSOFTConfig),
    *(CirculantConfig, SkewCirculantConfig, ToeplitzConfig, KroneckerConfig, LowDisplacementRankConfig),
    BottleneckConfig,
)
_STRUCTURES: dict[str, type[AdapterConfig]] = {kind.__name__.removesuffix("Config"): kind for kind in _CONFIGS}


def config_to_plain(config: AdapterConfig) -> dict[str, Any]:
    """Return the configuration as plain values: ``"structure"`` and the settings.

    Raises:
        ValueError: for a class that is not lipnet's: `config_from_plain` could not read it.

    Example:
        >>> config_to_plain(LoRAConfig(rank=4))
        {'structure': 'LoRA', 'rank': 4, 'alpha': 16.0}
    """
    names = [name for name, kind in _STRUCTURES.items() if kind is type(config)]
    if not names:
        raise ValueError(f"a file can store {', '.join(_STRUCTURES)}, got {config!r}")
    settings = {setting.name: getattr(config, setting.name) for setting in fields(config)}  # type: ignore[arg-type]
    return {
        "structure": names[0],
        **{name: config_to_plain(v) if isinstance(v, AdapterConfig) else v for name, v in settings.items()},
    }


def config_from_plain(plain: Mapping[str, Any]) -> AdapterConfig:
    """Return the configuration that `config_to_plain` wrote.

    Raises:
        ValueError: for an unknown structure or setting, and for an invalid value.
    """
    settings = dict(plain)
    structure = settings.pop("structure", None)
    if structure not in _STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(_STRUCTURES)}, got {structure!r}")
    try:
        return _STRUCTURES[structure](**settings)
    except TypeError as error:
        raise ValueError(f"settings must be those of {structure}, got {settings}: {error}") from error


def with_settings(config: AdapterConfig, settings: Mapping[str, Any]) -> AdapterConfig:
    """Return the configuration with some settings changed.

    Raises:
        ValueError: for an unknown setting, and for an invalid value.
    """
    try:
        return replace(config, **settings)  # type: ignore[type-var]
    except TypeError as error:
        raise ValueError(f"settings must be those of {type(config).__name__}, got {dict(settings)}: {error}") from error


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
