"""What certificates rest on: Lipschitz bounds of a model's logits and of their differences."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from lipnet.certify.bound import bound_of, check_running, children_in_order
from lipnet.functional import product_up
from lipnet.functional.margins import certified_radius
from lipnet.functional.pairwise import pairwise_certified_radius, scale_up


@dataclass(frozen=True, eq=False)
class LogitBounds:
    """Upper bounds on the Lipschitz constants of a map to logits, and the radii that they certify.

    Attributes:
        lipschitz: K, of the map to all logits together; infinite where none is known.
        pairwise: float64 (C, C), of the differences f_i - f_j, where the head declares them; None for sqrt(2) K.
    """

    lipschitz: float
    pairwise: Tensor | None = None

    def after(self, lipschitz: float) -> LogitBounds:
        """The bounds of this map after another one with this bound."""
        pairwise = None if self.pairwise is None else scale_up(self.pairwise, lipschitz)
        return LogitBounds(product_up([lipschitz, self.lipschitz]), pairwise)

    def certified_radius(
        self, logits: Tensor, error: float = 0.0, pairwise_errors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predictions (B,) and certified L2 radii (B,), float64, rounded down, of logits (B, C).

        The radius is the smallest quotient of f_y - f_j, less what rounding may have added to it here and at the
        border of the ball, and its bound, over all classes j; see `lipnet.functional.margins.certified_radius` and
        `lipnet.functional.pairwise.pairwise_certified_radius`.

        Args:
            logits: as they were computed.
            error: E, an upper bound on the distance of computed logits from exact ones.
            pairwise_errors: float64 (C, C), of the differences f_i - f_j; None for sqrt(2) E.
        """
        if self.pairwise is None:
            return certified_radius(logits, self.lipschitz, error)
        if pairwise_errors is None:
            pairwise_errors = torch.full_like(self.pairwise, product_up([sqrt(2), error]))
        return pairwise_certified_radius(logits, self.pairwise, pairwise_errors)


def logit_bounds(model: nn.Module) -> LogitBounds:
    """The bounds of a model from its inputs to its logits (L2 to L2).

    The kind of a head is declared by the head, never guessed: one with a method ``pairwise_lipschitz()``, such as
    `lipnet.layers.NormalizedLinear`, answers with a bound for each difference of two logits. Where it is the last
    module, the differences are bounded by these numbers times the bound of what comes before.

    Args:
        model: in evaluation mode.

    Raises:
        TypeError, ValueError: as `lipnet.certify.lipschitz_bound`; and ValueError if a head's answer is not a float64
            matrix of numbers that are not negative.

    Example:
        >>> from lipnet.layers import NormalizedLinear
        >>> head = NormalizedLinear(2, 2)
        >>> with torch.no_grad():
        ...     _ = head.weight.copy_(torch.tensor([[1.0, 0.0], [-5.0, 0.0]]))
        >>> bounds = logit_bounds(nn.Sequential(nn.LeakyReLU(3.0), head).eval())
        >>> round(bounds.pairwise[0, 1].item(), 4)  # 3 times the distance of two opposite unit vectors
        6.0
    """
    check_running(model)
    return _bounds("", model)


def _bounds(path: str, module: nn.Module) -> LogitBounds:
    children = children_in_order(path, module)
    if children:
        features, (head_path, head) = children[:-1], children[-1]
        return _bounds(head_path, head).after(product_up(bound_of(*feature) for feature in features))
    return LogitBounds(bound_of(path, module), declared_pairwise(path, module))


def declared_pairwise(path: str, module: nn.Module) -> Tensor | None:
    """What a head answers to ``pairwise_lipschitz()``, checked; None if it declares nothing."""
    declare = getattr(module, "pairwise_lipschitz", None)
    if not callable(declare):
        return None
    pairwise: Tensor | None = declare()
    if pairwise is None:
        return None
    square = pairwise.dim() == 2 and pairwise.shape[0] == pairwise.shape[1]
    if not square or pairwise.dtype != torch.float64 or not bool((pairwise >= 0).all()):
        raise ValueError(
            f"{path or 'the model'} ({type(module).__name__}) must declare pairwise_lipschitz() as a float64 matrix "
            f"(C, C) of numbers that are not negative, got {pairwise.dtype} {tuple(pairwise.shape)}"
        )
    return pairwise
