"""Linear layer with rows made orthonormal by a Cholesky decomposition (CHORD)."""

import torch
from torch import Tensor, nn

from lipnet.functional.norm_bounds import gram_norm_bound
from lipnet.layers.arguments import check_weight
from lipnet.layers.initial import reset_orthogonal
from lipnet.layers.kernel import MatrixLayer
from lipnet.layers.operands import Operands

# Share of the Gram matrix's norm that is added to its diagonal: far more than the rounding of float32.
_DAMPING = 1e-6


class Cholesky(MatrixLayer):
    r"""Cholesky-orthogonalised linear layer (CHORD): x -> L^(-1) W x + b with L L^T = W W^T + eps I.

    W is the parameter ``weight``; if it has more rows than columns, the formula applies to its transpose. Since
    W W^T <= L L^T, the layer is a contraction. It is orthogonal, except in directions whose singular value of W is not
    large beside sqrt(eps). eps is 1e-6 times the Frobenius norm of W W^T, so that the scale of W does not matter.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        device, dtype: of the parameters.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: for an input of another shape.

    Source: Hu et al., "A recipe for improved certifiable robustness", ICLR 2024 (arXiv 2310.02513).

    Example:
        >>> layer = Cholesky(64, 10).eval()
        >>> layer(torch.zeros(1, 64)).shape
        torch.Size([1, 10])
        >>> 0.999 < layer.lipschitz_bound() <= 1.0
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw an orthogonal matrix, and biases uniformly from +-1 / sqrt(out_features)."""
        reset_orthogonal(self.weight)
        self.reset_bias()

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def check(self) -> None:
        super().check()
        check_weight("weight", self.weight, (self.out_features, self.in_features))

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        (weight,) = weights
        wide = weight if weight.shape[0] <= weight.shape[1] else weight.mT
        rows = orthonormal_rows(wide)
        return ((rows if wide is weight else rows.mT)[..., None, None],)

    def bound_operands(self, operands: Operands) -> float:
        return gram_norm_bound(operands[0].flatten(1))


def orthonormal_rows(weight: Tensor) -> Tensor:
    """Return L^(-1) W with L L^T = W W^T + eps I for W (m, n), m <= n; NaN if rounding leaves no such L.

    Differentiable. See `Cholesky` for eps. Half precision, which has no Cholesky decomposition, is computed in float32.
    """
    dtype = weight.dtype
    weight = weight.to(torch.promote_types(dtype, torch.float32))
    # Scaled, so that the norm does not overflow or vanish in float32.
    scaled = weight / weight.detach().abs().max().clamp_min(torch.finfo(weight.dtype).tiny)
    gram = scaled @ scaled.mT
    damping = _DAMPING * gram.norm() + torch.finfo(weight.dtype).tiny
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor, info = torch.linalg.cholesky_ex(gram + damping * identity)
    rows: Tensor = torch.linalg.solve_triangular(factor, scaled, upper=False)
    return torch.where(info == 0, rows, torch.nan).to(dtype)
