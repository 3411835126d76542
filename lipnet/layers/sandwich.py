"""The sandwich layer: a linear layer, a relu and another linear layer with a joint Lipschitz bound."""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnet.functional.norm_bounds import gram_norm_bound
from lipnet.functional.orthogonal_matrices import cayley
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, euclidean_norm, products, up
from lipnet.layers.arguments import check_weight
from lipnet.layers.base import LinearFeatures
from lipnet.layers.operands import OperandLayer, Operands


class Sandwich(LinearFeatures, OperandLayer):
    r"""Sandwich layer: x -> sqrt(2) A^T Psi relu(sqrt(2) Psi^(-1) B x + b) with A A^T + B B^T = I.

    Psi is diagonal and positive, the exponential of the parameter ``log_psi``, and b is ``hidden_bias``. relu commutes
    with Psi, so the layer computes sqrt(2) A^T relu(sqrt(2) B x + Psi b). [A B]^T is the Cayley transform of
    ``weight``, which is first scaled to the learned norm ``scale``.

    The Jacobian is 2 A^T diag(d) B, with the derivatives d_i of relu in [0, 1]. For all x and y, its product
    y^T 2 A^T diag(d) B x = sum_i 2 d_i (A y)_i (B x)_i is at most sum_i ((A y)_i + (B x)_i)^2 / 2, hence at most
    ||[A B]||^2 (||y||^2 + ||x||^2) / 2. So ||[A B]||^2 is a Lipschitz bound.

    Args:
        in_features, out_features: as in ``nn.Linear``.
        bias: learn b and Psi, each with out_features entries.
        device, dtype: of the parameters.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: for an input of another shape.

    Source: Wang & Manchester, "Direct parameterization of Lipschitz-bounded deep networks", ICML 2023
    (arXiv 2301.11526). As there, Psi starts at I and the scale at the norm of the weight.

    Example:
        >>> layer = Sandwich(64, 32).eval()
        >>> layer(torch.zeros(1, 64)).shape
        torch.Size([1, 32])
        >>> round(layer.lipschitz_bound(), 6)
        1.0
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
        super().__init__(in_features, out_features, bias=False, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(out_features + in_features, out_features, device=device, dtype=dtype))
        self.scale = nn.Parameter(torch.empty((), device=device, dtype=dtype))
        self.log_psi = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        # This bias is added before the relu. `OperandLayer.bias` would be added to the result.
        self.hidden_bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normal weights as in Xavier's initialisation, and biases as ``nn.Linear`` does."""
        nn.init.xavier_normal_(self.weight)
        with torch.no_grad():
            self.scale.copy_(self.weight.norm())
        if self.hidden_bias is not None and self.log_psi is not None:
            nn.init.zeros_(self.log_psi)
            bound = 1 / sqrt(self.in_features)
            nn.init.uniform_(self.hidden_bias, -bound, bound)

    def check(self) -> None:
        super().check()
        check_weight("weight", self.weight, (self.out_features + self.in_features, self.out_features))
        check_weight("scale", self.scale, ())
        check_weight("log_psi", self.log_psi, (self.out_features,))
        check_weight("hidden_bias", self.hidden_bias, (self.out_features,))

    def weights(self) -> list[Tensor]:
        biases = [] if self.hidden_bias is None or self.log_psi is None else [self.hidden_bias, self.log_psi]
        return [self.weight, self.scale, *biases]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        """Compute sqrt(2) A, sqrt(2) B, and Psi b."""
        weight, scale, *biases = weights
        norm = weight.norm().clamp_min(torch.finfo(weight.dtype).tiny)
        # Half precision has no Cholesky decomposition.
        free = (scale * (weight / norm)).to(torch.promote_types(weight.dtype, torch.float32))
        both = sqrt(2) * cayley(free).to(weight.dtype).mT
        bias = () if not biases else (biases[0] * biases[1].exp(),)
        return both[:, : self.out_features], both[:, self.out_features :], *bias

    def apply_operands(self, maps: Tensor, operands: Operands) -> Tensor:
        after, before, *biases = operands
        hidden = F.linear(maps.flatten(1), before, *biases)
        hidden = hidden.relu() if torch.is_grad_enabled() else hidden.relu_()
        return (hidden @ after)[..., None, None]

    def bound_operands(self, operands: Operands) -> float:
        norm = gram_norm_bound(torch.cat((operands[0], operands[1]), dim=1))
        return up(norm * norm / 2)

    def round_operands(self, operands: Operands, signal: Signal, size: tuple[int, int]) -> Step:
        after, before, *biases = operands
        # ||sqrt(2) A|| and ||sqrt(2) B||, as ||[A B]||^2 is the bound.
        norm = up(sqrt(2 * self.lipschitz_bound()))
        bias_norm = euclidean_norm(biases[0]) if biases else 0.0
        first = products(
            signal,
            length=before.shape[1],
            magnitude=absolute_norm(before),
            gain=norm,
            outputs=len(before),
            bias_norm=bias_norm,
        )
        hidden = signal.after(first, (len(before),))
        second = products(hidden, length=len(after), magnitude=absolute_norm(after), gain=norm, outputs=after.shape[1])
        gain = self.lipschitz_bound()
        return Step(up(gain * signal.norm + norm * bias_norm), gain, up(norm * first.error + second.error))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.hidden_bias is not None}"
