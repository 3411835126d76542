"""Lipschitz bounds of whole models: K for all logits together, D for each difference of two (docs/notation.md)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from lipnet.certify.arithmetic import explicit_arithmetic
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.rules import bound_of, children_in_order, describe, find_rule, join
from lipnet.functional import product_up
from lipnet.functional.margins import certified_radius
from lipnet.functional.pairwise import pairwise_certified_radius, scale_up
from lipnet.layers.base import LipschitzModule


def lipschitz_bound(model: nn.Module) -> float:
    """Return an upper bound on the Lipschitz constant of a model (L2 to L2), from its inputs to its outputs.

    The bound is the product of the bounds of the modules that run one after another. A `lipnet.layers.LipschitzModule`
    bounds itself; other modules, torch's among them, have a rule for their exact class (`lipnet.certify.rule`). A
    module without either is an error.

    Args:
        model: in evaluation mode.

    Returns:
        A float >= the true constant in exact arithmetic; infinite if weights are not finite.

    Raises:
        TypeError: names the module that has no rule.
        ValueError: names the module that computes something else than its class declares, or has a setting that its
            rule does not cover; see `lipnet.certify.checks`.

    Example:
        >>> lipschitz_bound(nn.Sequential(nn.Flatten(), nn.ReLU()).eval())
        1.0
    """
    check_computes_as_declared(model)
    return bound_of("", model)


@dataclass(frozen=True, eq=False)
class LogitBounds:
    """Upper bounds on the Lipschitz constants of a map to logits, and the radii that they certify.

    Attributes:
        lipschitz: K, for all logits together; infinite if none is known.
        pairwise: float64 (C, C), for the differences f_i - f_j, if the head declares them; None for sqrt(2) K.
    """

    lipschitz: float
    pairwise: Tensor | None = None

    def after(self, lipschitz: float) -> LogitBounds:
        """Return the bounds of the composition: first a map with the given bound, then this one."""
        pairwise = None if self.pairwise is None else scale_up(self.pairwise, lipschitz)
        return LogitBounds(product_up([lipschitz, self.lipschitz]), pairwise)

    def certified_radius(
        self, logits: Tensor, error: float = 0.0, pairwise_errors: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return predictions (B,) and certified L2 radii (B,), float64, rounded down, for logits (B, C).

        The radius is the minimum over all classes j of f_y - f_j, less the rounding at the image and at the border of
        the ball, divided by the bound of the difference; see `lipnet.functional.margins.certified_radius` and
        `lipnet.functional.pairwise.pairwise_certified_radius`.

        Args:
            logits: the computed logits.
            error: E, an upper bound on the distance of computed logits from exact ones.
            pairwise_errors: float64 (C, C), the same for the differences f_i - f_j; None for sqrt(2) E.
        """
        if self.pairwise is None:
            return certified_radius(logits, self.lipschitz, error)
        if pairwise_errors is None:
            pairwise_errors = torch.full_like(self.pairwise, product_up([sqrt(2), error]))
        return pairwise_certified_radius(logits, self.pairwise, pairwise_errors)


def logit_bounds(model: nn.Module, *, estimate: bool = False) -> LogitBounds:
    """Return the bounds of a model from its inputs to its logits (L2 to L2).

    A head states its own bounds; none are guessed. A `LipschitzModule` with ``pairwise_lipschitz()``, such as
    `lipnet.layers.NormalizedLinear`, returns a bound for each difference of two logits. If it is the last module, these
    bounds times the bound of the modules before it hold for the model.

    Args:
        model: in evaluation mode.
        estimate: use `LipschitzModule.lipschitz_estimate`, because some proven bounds take long. The result proves
            nothing; validation during training uses it.

    Raises:
        TypeError, ValueError: as `lipnet.certify.lipschitz_bound`; and ValueError if a head returns anything but a
            square float64 matrix without negative numbers.

    Example:
        >>> from lipnet.layers import NormalizedLinear
        >>> head = NormalizedLinear(2, 2)
        >>> with torch.no_grad():
        ...     _ = head.weight.copy_(torch.tensor([[1.0, 0.0], [-5.0, 0.0]]))
        >>> bounds = logit_bounds(nn.Sequential(nn.LeakyReLU(3.0), head).eval())
        >>> round(bounds.pairwise[0, 1].item(), 4)  # 3 times the distance of two opposite unit vectors
        6.0
    """
    check_computes_as_declared(model)
    with explicit_arithmetic(model):
        return _bounds("", model, estimate)


def _bounds(path: str, module: nn.Module, estimate: bool) -> LogitBounds:
    children = children_in_order(module)
    if children:
        *features, (name, head) = children
        before = product_up(bound_of(join(path, each), child, estimate) for each, child in features)
        return _bounds(join(path, name), head, estimate).after(before)
    return LogitBounds(bound_of(path, module, estimate), declared_pairwise(path, module))


def declared_pairwise(path: str, module: nn.Module) -> Tensor | None:
    """Return the checked result of a head's ``pairwise_lipschitz()``, float64 (C, C); None if it declares none."""
    if find_rule(module) is not None or not isinstance(module, LipschitzModule):
        return None
    pairwise = module.pairwise_lipschitz()
    if pairwise is None:
        return None
    square = pairwise.dim() == 2 and pairwise.shape[0] == pairwise.shape[1]
    if not square or pairwise.dtype != torch.float64 or not bool((pairwise >= 0).all()):
        raise ValueError(
            f"{describe(path, module)} must declare pairwise_lipschitz() as a float64 matrix (C, C) of numbers that "
            f"are not negative, got {pairwise.dtype} {tuple(pairwise.shape)}"
        )
    return pairwise
