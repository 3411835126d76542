"""Linear heads with a Lipschitz bound for each difference of two logits."""

from math import inf, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional import spectral_norm_bound
from lipnet.functional.pairwise import row_distances
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, euclidean_norm, products
from lipnet.layers.arguments import check_weight
from lipnet.layers.base import LipschitzModule


class NormalizedLinear(LipschitzModule):
    r"""Last layer normalisation (LLN): a linear layer whose rows are normalised one by one.

    :math:`f_i(x) = \langle w_i / \|w_i\|, x\rangle + b_i`. Each logit is 1-Lipschitz, but all logits together need not
    be, because the rows w_i are free to point at the classes instead of being orthogonal. A certificate rests on
    differences of two logits, whose Lipschitz constant is exactly the distance of their normalised rows. From these
    distances (`pairwise_lipschitz`), `lipnet.certify.certify` computes, with rows of norm 1,

        radius = min over all j of (f_y - f_j) / (||w_y - w_j|| K),    K the bound of the layers before the head.

    Every forward pass normalises the rows of the parameter ``weight``, so their length does not matter. A row that is
    zero or not finite cannot be normalised: its logit is ``b_i`` or NaN, and nothing is certified against it.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        device, dtype: of the parameters.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: unless features are integers of at least 1, and for an input, a weight or a bias of another shape.

    Source: Singla, Singla & Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022
    (arXiv 2108.04062), section 4.

    Example:
        >>> head = NormalizedLinear(2, 3, bias=False)
        >>> with torch.no_grad():
        ...     _ = head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 4.0]]))
        >>> [round(logit, 4) for logit in head(torch.tensor([[1.0, 2.0]]))[0].tolist()]
        [1.0, 2.0, 2.2]
        >>> [round(distance, 4) for distance in head.pairwise_lipschitz()[2].tolist()]
        [0.8944, 0.6325, 0.0]
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
        super().__init__()
        if any(not isinstance(features, int) or features < 1 for features in (in_features, out_features)):
            raise ValueError(f"features must be integers of at least 1, got {in_features} in, {out_features} out")
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights, with rows of length about 1, and biases as ``nn.Linear`` does."""
        scale = 1 / sqrt(self.in_features)
        nn.init.normal_(self.weight, std=scale)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -scale, scale)

    def forward(self, x: Tensor) -> Tensor:
        self.check()
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"NormalizedLinear needs an input of shape (B, {self.in_features}), got {tuple(x.shape)}")
        return F.linear(x, self.rows(), self.bias)

    def check(self) -> None:
        check_weight("weight", self.weight, (self.out_features, self.in_features))
        check_weight("bias", self.bias, (self.out_features,))

    def rows(self) -> Tensor:
        """Return the rows w_i / ||w_i||, (out_features, in_features), differentiable; zero rows stay zero."""
        norms = torch.linalg.vector_norm(self.weight, dim=1, keepdim=True)
        return self.weight / torch.where(norms > 0, norms, 1.0)

    def row_distances(self) -> Tensor:
        """Return the distances ||w_i - w_j|| of the normalised rows, (out_features, out_features), differentiable.

        They are rounded to nearest, for losses that measure radii; `pairwise_lipschitz` returns bounds.
        """
        rows = self.rows()
        # Computing them from products of the rows would cancel the digits of small distances.
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")

    def lipschitz_bound(self) -> float:
        """Return the spectral norm of the normalised rows, rounded up: a bound for all logits together."""
        return spectral_norm_bound(self.rows())

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the product with the normalised rows and of adding the biases."""
        return products(
            signal,
            length=self.in_features,
            magnitude=absolute_norm(self.rows()),
            gain=self.lipschitz_bound(),
            outputs=self.out_features,
            bias_norm=0.0 if self.bias is None else euclidean_norm(self.bias),
        )

    def pairwise_lipschitz(self) -> Tensor:
        """Return upper bounds on the Lipschitz constants ||w_i - w_j|| of the differences of two logits.

        Returns:
            Shape (out_features, out_features), float64, symmetric, from the normalised rows in use, rounded up;
            infinite for pairs with a row that is zero or not finite.
        """
        rows = self.rows().detach()
        degenerate = (rows == 0).all(dim=1)
        return row_distances(rows).masked_fill(degenerate.unsqueeze(0) | degenerate.unsqueeze(1), inf)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")
