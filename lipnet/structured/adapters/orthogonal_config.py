"""Configurations of orthogonal adapters: OFT, BOFT, GSOFT and Double GSOFT."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

from lipnet.structured.adapters.config_base import AdapterConfig, check_counts
from lipnet.structured.orthogonal import StructuredOrthogonal, boft, check_block_map, check_factors, gsoft, oft
from lipnet.structured.updates import OrthogonalUpdate, WeightUpdate


@dataclass(frozen=True)
class _OrthogonalConfig(AdapterConfig):
    """Settings of all orthogonal adapters.

    An adapter replaces the weight W by W Q^T on the input side, by Q W on the output side, or multiplies on both, with
    orthogonal matrices Q that start as the identity.

    Attributes:
        block_size: size b of Q's blocks, a divisor of the number of features that Q acts on.
        blocks: number of blocks, a divisor of the number of features; if given, ``block_size`` is ignored.
        scale: also learn a factor for each output, starting at 1.
        block_map: ``"cayley"`` or ``"exponential"``.
        transpose: on the input side, False replaces W by W Q instead of W Q^T, as GSOFT's published code does.
    """

    block_size: int = 8
    _: KW_ONLY
    blocks: int | None = None
    scale: bool = True
    block_map: str = "cayley"
    transpose: bool = True
    # Constants of this class, not fields. OneSidedConfig has ``side`` as a field, BOFT and GSOFT have ``factors``.
    side = "both"
    factors = 1

    def __post_init__(self) -> None:
        check_counts(block_size=self.block_size, factors=self.factors)
        check_factors(self.factors)
        if self.blocks is not None:
            check_counts(blocks=self.blocks)
        check_block_map(self.block_map)
        for name in ("scale", "transpose"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def build(self, out_features: int, in_features: int) -> WeightUpdate:
        return OrthogonalUpdate(
            out_features,
            in_features,
            output=self.matrix(out_features) if self.side in ("output", "both") else None,
            input=self.matrix(in_features) if self.side in ("input", "both") else None,
            scale=self.scale,
            transpose=self.transpose,
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

    _: KW_ONLY
    factors: int = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return boft(features, block_size, self.factors, self.block_map)


@dataclass(frozen=True)
class GSOFTConfig(OneSidedConfig):
    """W' = W Q^T with GSOFT's Q = P^T L P R, see `gsoft`; Q W with ``side="output"``.

    The paper writes W' = Q W for W (in x out), which is W Q^T in the layout of ``nn.Linear``, (out x in). Its published
    code computes W (Q x) instead, so W' = W Q: use ``transpose=False`` for weights trained with that code. The skew
    matrix of a block with parameters A is A - A^T in lipnet, and (A - A^T) / 2 in the published code. To import its
    parameters into an update with ``transpose=False``, copy (see docs/adapters.md)

    - ``gsoft_R / 2`` to ``input.generators[0]``, and ``gsoft_L / 2`` to ``input.generators[1]``,
    - ``gsoft_s`` to ``scale``.

    Attributes:
        factors: number m of block-diagonal factors. For n features and blocks of size b, Q can be dense from
            1 + ceil(log_b(n / b)) factors on.
    """

    _: KW_ONLY
    factors: int = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return gsoft(features, block_size, self.block_map, self.factors)


@dataclass(frozen=True)
class DoubleGSOFTConfig(_OrthogonalConfig):
    """W' = Q_U W Q_V^T with GSOFT's matrices Q_U (``output``) and Q_V (``input``), for W (out x in) of ``nn.Linear``.

    The published code computes Q_U W Q_V: use ``transpose=False`` for its weights, see `GSOFTConfig`.
    """

    factors = 2

    def matrix_of_blocks(self, features: int, block_size: int) -> StructuredOrthogonal:
        return gsoft(features, block_size, self.block_map, self.factors)
