"""Configurations of additive and bottleneck adapters; conversion of all configurations to plain values and back."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, fields, replace
from math import isfinite
from typing import Any, ClassVar

from lipnet.structured.adapters.config_base import AdapterConfig, check_counts
from lipnet.structured.adapters.orthogonal_config import BOFTConfig, DoubleGSOFTConfig, GSOFTConfig, OFTConfig
from lipnet.structured.additive import AdditiveUpdate, Kronecker, LowRank
from lipnet.structured.bottleneck import ACTIVATIONS, Bottleneck, Dense
from lipnet.structured.displacement import Circulant, LowDisplacementRank, SkewCirculant, Toeplitz
from lipnet.structured.updates import WeightUpdate


@dataclass(frozen=True)
class _AdditiveConfig(AdapterConfig):
    """W' = W + D. The settings are arguments of D's class.

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
        check_counts(rank=self.rank)
        if type(self.alpha) not in (int, float) or not isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha must be a finite and positive number, got {self.alpha!r}")


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
        check_counts(**dict(zip(("left_shape[0]", "left_shape[1]"), self.left_shape, strict=True)))
        object.__setattr__(self, "left_shape", tuple(self.left_shape))  # JSON has lists only


@dataclass(frozen=True)
class LowDisplacementRankConfig(_AdditiveConfig):
    """W' = W + sum of ``rank`` products of a circulant and a skew-circulant matrix, see `LowDisplacementRank`."""

    update = LowDisplacementRank
    rank: int = 1

    def __post_init__(self) -> None:
        check_counts(rank=self.rank)


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
        check_counts(width=self.width)
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
    """Return the configuration as JSON values: ``"structure"`` and the settings.

    Raises:
        ValueError: for a class of your own, which `config_from_plain` could not read.

    Example:
        >>> config_to_plain(LoRAConfig(rank=4))
        {'structure': 'LoRA', 'rank': 4, 'alpha': 16.0}
    """
    names = [name for name, kind in _STRUCTURES.items() if kind is type(config)]
    if not names:
        raise ValueError(f"a file can store {', '.join(_STRUCTURES)}, got {config!r}")
    settings = {setting.name: getattr(config, setting.name) for setting in fields(config)}  # type: ignore[arg-type]
    return {"structure": names[0], **{name: _plain(value) for name, value in settings.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, AdapterConfig):
        return config_to_plain(value)
    return list(value) if isinstance(value, tuple) else value


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
