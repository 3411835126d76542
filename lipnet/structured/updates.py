"""Updates of a weight that begin as none: what an adapter trains. Here the orthogonal one and the one of parts."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lipnet.structured.orthogonal import StructuredOrthogonal


class WeightUpdate(nn.Module, ABC):
    """A map of weights (out_features, in_features), in the layout of ``nn.Linear``, that starts as the identity.

    Every update can be registered by ``torch.nn.utils.parametrize.register_parametrization`` on a weight of that shape.

    Attributes:
        shape: (out_features, in_features).
    """

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        if min(out_features, in_features) < 1:
            raise ValueError(f"a weight has at least one row and one column, got {out_features} x {in_features}")
        self.shape = (out_features, in_features)

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight, of the shape and dtype of ``weight``."""

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """W' x + b for vectors x (..., in_features), giving (..., out_features): what ``nn.Linear`` computes.

        Structures multiply x without forming W' where they can: that takes neither the memory of another weight nor the
        gradient of one. The structure itself is applied in the wider of its dtype and x's, outside autocast.
        """
        return F.linear(x, self(weight), bias)

    def compact_state(self) -> dict[str, Tensor]:
        """The least that the update can be restored from, by name: of skew-symmetric matrices the upper triangles."""
        return {name: _compact(owner, parameter) for name, owner, parameter in self._parameters_and_owners()}

    @torch.no_grad()
    def load_compact_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `compact_state` gave.

        Raises:
            ValueError: for other names or shapes, before anything is changed.
        """
        expected = {name: tuple(value.shape) for name, value in self.compact_state().items()}
        received = {name: tuple(value.shape) for name, value in state.items()}
        if expected != received:
            raise ValueError(f"the update consists of {expected}, got {received}")
        for name, owner, parameter in self._parameters_and_owners():
            if isinstance(owner, StructuredOrthogonal):
                owner.set_upper_triangles(state[name])
            else:
                parameter.copy_(state[name])

    def _parameters_and_owners(self) -> Iterator[tuple[str, nn.Module, Tensor]]:
        for path, module in self.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{path}.{name}".lstrip("."), module, parameter


def _compact(owner: nn.Module, parameter: Tensor) -> Tensor:
    return owner.upper_triangles() if isinstance(owner, StructuredOrthogonal) else parameter.detach()


class OrthogonalUpdate(WeightUpdate):
    """W' = diag(s) Q_U W Q_V^T with structured orthogonal matrices on either side or both, and an output scale s.

    The papers write W as (in x out) and W' = Q W: in the layout of ``nn.Linear``, (out x in), their Q is Q_V here, on
    the input side. There it turns all neurons alike and keeps the angles between them.

    Args:
        out_features, in_features: shape of W.
        output: Q_U, of out_features; None for the identity.
        input: Q_V, of in_features; None for the identity.
        scale: learn the magnitudes s of the outputs; they start at 1.

    Shape:
        (out_features, in_features) to the same shape.

    Raises:
        ValueError: for matrices of other sizes, or none.

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
    ) -> None:
        super().__init__(out_features, in_features)
        given = [matrix for matrix in (output, input) if matrix is not None]
        if not given:
            raise ValueError("an orthogonal update needs a matrix on the output or the input side, got none")
        for side, matrix, features in (("output", output, out_features), ("input", input, in_features)):
            if matrix is not None and matrix.features != features:
                raise ValueError(f"the matrix on the {side} side needs {features} features, got {matrix.features}")
        self.output, self.input = output, input
        reference = given[0].generators
        ones = torch.ones(out_features, device=reference.device, dtype=reference.dtype)
        self.scale = nn.Parameter(ones) if scale else None

    def forward(self, weight: Tensor) -> Tensor:
        if self.output is not None:
            weight = self.output(weight)
        if self.input is not None:
            weight = self.input(weight.mT).mT
        return weight if self.scale is None else self.scale[:, None] * weight

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.input is not None:
            x = self.input.rotate(x, transposed=True)
        if self.output is None and self.scale is None:
            return F.linear(x, weight, bias)
        y = F.linear(x, weight)
        if self.output is not None:
            y = self.output.rotate(y)
        shifted = _scaled_and_shifted(y, self.scale, bias)
        # Under autocast the product is of a narrower dtype than the scale and the bias.
        return shifted.to(y.dtype)


def _scaled_and_shifted(y: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
    if scale is None:
        return y if bias is None else y + bias
    return y * scale if bias is None else torch.addcmul(bias, y, scale)


class StackedUpdate(WeightUpdate):
    """Updates of their own for the parts of a weight that lie on top of each other, as q, k and v in attention.

    Args:
        updates: one for each part, from the top.

    Raises:
        ValueError: unless the parts have the same number of columns.
    """

    def __init__(self, updates: Sequence[WeightUpdate]) -> None:
        columns = {update.shape[1] for update in updates}
        if len(columns) != 1:
            raise ValueError(f"stacked weights have one number of columns, got {[u.shape for u in updates]}")
        super().__init__(sum(update.shape[0] for update in updates), columns.pop())
        self.parts = nn.ModuleList(updates)
        self._rows = [update.shape[0] for update in updates]

    def forward(self, weight: Tensor) -> Tensor:
        parts = zip(self.parts, torch.split(weight, self._rows), strict=True)
        return torch.cat([update(part) for update, part in parts])
