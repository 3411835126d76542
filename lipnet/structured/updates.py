"""Weight updates, which adapters train: the base class, orthogonal updates, and one update per row block."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipnet.structured.orthogonal import StructuredOrthogonal
from lipnet.structured.rotations import skew_symmetric


class WeightUpdate(nn.Module, ABC):
    """A trainable function of a weight (out_features, in_features), as in ``nn.Linear``, that starts as the identity.

    ``torch.nn.utils.parametrize.register_parametrization`` accepts every update for a weight of that shape.

    Attributes:
        shape: (out_features, in_features).
        strength: t, the strength at which an adapter applies the update; see `interpolated`.
        merges: True if the updated weight reproduces the whole update, so that it can be merged. False for an update
            that changes the output of the layer instead.
    """

    merges: ClassVar[bool] = True

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        if min(out_features, in_features) < 1:
            raise ValueError(f"a weight needs at least one row and one column, got {out_features} x {in_features}")
        self.shape = (out_features, in_features)
        self.strength = 1.0

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight W', with the shape and dtype of ``weight``."""

    @abstractmethod
    def interpolated(self, strength: float) -> dict[str, Tensor]:
        """Return the update's parameters at strength t: the identity for t = 0, the present parameters for t = 1."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return W' x + b for vectors x (..., in_features), as ``nn.Linear`` computes it.

        Subclasses override this to multiply x without forming W', which saves the memory of a second weight and of its
        gradient. They compute in the wider of their own dtype and that of x, outside autocast.
        """
        return F.linear(x, self(weight), bias)

    def compact_state(self) -> dict[str, Tensor]:
        """Return the smallest state that restores the update, by name: upper triangles for skew-symmetric matrices."""
        state = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return state | {name: matrix.upper_triangles() for name, matrix in self._orthogonal()}

    def load_compact_state(self, state: dict[str, Tensor]) -> None:
        """Restore a `compact_state`.

        Raises:
            ValueError: if names or shapes differ from `compact_state`. Nothing is changed then.
        """
        expected = {name: tuple(value.shape) for name, value in self.compact_state().items()}
        received = {name: tuple(value.shape) for name, value in state.items()}
        if expected != received:
            raise ValueError(f"state must consist of {expected}, got {received}")
        rest = dict(state)
        for name, matrix in self._orthogonal():
            matrix.set_upper_triangles(rest.pop(name))
        self.load_state_dict(rest, strict=False)

    def _orthogonal(self) -> list[tuple[str, StructuredOrthogonal]]:
        """Return the orthogonal matrices of the update, each with the name of its parameter."""
        modules = self.named_modules()
        return [(f"{path}.generators", module) for path, module in modules if isinstance(module, StructuredOrthogonal)]


class OrthogonalUpdate(WeightUpdate):
    """W' = diag(s) Q_U W Q_V^T with structured orthogonal Q on either side or both, and a learned output scale s.

    The papers write W as (in x out) and W' = Q W. In the layout of ``nn.Linear``, (out x in), their Q is Q_V here, on
    the input side: it rotates all neurons alike and keeps the angles between them.

    Args:
        out_features, in_features: shape of W.
        output: Q_U, with out_features features; None for the identity.
        input: Q_V, with in_features features; None for the identity.
        scale: learn the output magnitudes s, which start at 1.
        transpose: multiply by Q_V^T. False multiplies by Q_V, as GSOFT's published code does.

    Shape:
        (out_features, in_features) to the same shape.

    Raises:
        ValueError: if both matrices are None, or one has the wrong size.

    Source: Qiu et al., NeurIPS 2023 (arXiv 2306.07280); both sides: Gorbunov et al., NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> from lipnet.structured import gsoft
        >>> update = OrthogonalUpdate(4, 6, input=gsoft(6, block_size=2))
        >>> weight = torch.arange(24.0).view(4, 6)
        >>> torch.equal(update(weight), weight)
        True
    """

    def __init__(
        self,
        out_features: int,
        in_features: int,
        *,
        output: StructuredOrthogonal | None = None,
        input: StructuredOrthogonal | None = None,
        scale: bool = False,
        transpose: bool = True,
    ) -> None:
        super().__init__(out_features, in_features)
        given = [matrix for matrix in (output, input) if matrix is not None]
        if not given:
            raise ValueError("an orthogonal update needs a matrix on the output or the input side, got none")
        for side, matrix, features in (("output", output, out_features), ("input", input, in_features)):
            if matrix is not None and matrix.features != features:
                raise ValueError(f"the matrix on the {side} side needs {features} features, got {matrix.features}")
        self.output, self.input, self.transpose = output, input, transpose
        self.scale = nn.Parameter(given[0].generators.new_ones(out_features)) if scale else None

    def forward(self, weight: Tensor) -> Tensor:
        if self.output is not None:
            weight = self.output(weight)
        if self.input is not None:
            # W Q^T = (Q W^T)^T. The rows of W Q are Q^T w, for the rows w of W.
            weight = self.input(weight.mT).mT if self.transpose else self.input.rotate(weight, transposed=True)
        return weight if self.scale is None else self.scale[:, None] * weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.input is not None:
            x = self.input.rotate(x, transposed=self.transpose)
        if self.output is None and self.scale is None:
            return F.linear(x, weight, bias)
        y = F.linear(x, weight)
        # Under autocast, y is narrower than scale and bias: convert the result back.
        dtype = y.dtype
        if self.output is not None:
            y = self.output.rotate(y)
        if self.scale is not None and bias is not None:
            return torch.addcmul(bias, y, self.scale).to(dtype)
        y = y if self.scale is None else y * self.scale
        return (y if bias is None else y + bias).to(dtype)

    def interpolated(self, strength: float) -> dict[str, Tensor]:
        """Return generators of t K, so that the blocks rotate from I to themselves, and scales 1 + t (s - 1).

        K = A - A^T itself is scaled, not A: a saved adapter holds K alone, and must round as the present one does.
        """
        return {
            name: torch.lerp(torch.ones_like(value), value, strength)
            if name == "scale"
            else strength * skew_symmetric(value).triu(1)
            for name, value in self.named_parameters()
        }


class StackedUpdate(WeightUpdate):
    """Separate updates for the row blocks of a weight, such as q, k and v in attention.

    Args:
        updates: one for each row block, from the top.

    Raises:
        ValueError: if the updates differ in their number of columns.
    """

    def __init__(self, updates: Sequence[WeightUpdate]) -> None:
        columns = {update.shape[1] for update in updates}
        if len(columns) != 1:
            raise ValueError(f"stacked weights need one number of columns, got {[u.shape for u in updates]}")
        super().__init__(sum(update.shape[0] for update in updates), columns.pop())
        self.parts = nn.ModuleList(updates)
        self._rows = [update.shape[0] for update in updates]

    def forward(self, weight: Tensor) -> Tensor:
        parts = zip(self.parts, torch.split(weight, self._rows), strict=True)
        return torch.cat([update(part) for update, part in parts])

    def interpolated(self, strength: float) -> dict[str, Tensor]:
        parameters: dict[str, Tensor] = {}
        for index, update in enumerate(self.parts):
            assert isinstance(update, WeightUpdate)
            parameters |= {f"parts.{index}.{name}": value for name, value in update.interpolated(strength).items()}
        return parameters
