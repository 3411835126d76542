"""LipschitzModule, the base class of layers that bound their own Lipschitz constant and rounding."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lipnet.functional.rounding import product_up
from lipnet.functional.rounding_error import Signal, Step


class LipschitzModule(nn.Module):
    """A module that bounds its own Lipschitz constant and its own rounding.

    Inherit from it to make a layer that `lipnet.certify` accepts, and implement `lipschitz_bound`. Certificates in
    float64 also need `rounding_step`. A class that overrides ``forward`` must define `lipschitz_bound` itself or below:
    a bound inherited from a class with another ``forward`` is refused.

    docs/own-layer.md builds such a layer step by step.
    """

    def lipschitz_bound(self) -> float:
        """Return an upper bound K on the Lipschitz constant (L2 to L2) of the function this module computes now.

        Compute it from the very tensors that ``forward`` multiplies with, and round up. Return infinity for weights
        that are not finite. The default covers a module that lists its children: the product of their bounds.

        Raises:
            TypeError: for a child that does not bound itself; `lipnet.certify.lipschitz_bound` has rules for torch's.
        """
        children = self.children_in_order()
        if children is None:
            raise NotImplementedError(f"{type(self).__name__} does not implement lipschitz_bound()")
        return product_up(own_bound(child) for _, child in children)

    def lipschitz_estimate(self) -> float:
        """Return about `lipschitz_bound`, without a proof that takes long: for validation during training."""
        return self.lipschitz_bound()

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding error of ``forward`` in float64.

        Args:
            signal: bounds on the input of one sample.
            shape: shape of the output of one sample.

        See `lipnet.functional.rounding_error` for the building blocks.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement rounding_step()")

    def pairwise_lipschitz(self) -> Tensor | None:
        """Return bounds on the Lipschitz constants of all differences of two outputs, float64 (C, C), or None.

        Only the last layer of a classifier is asked. None stands for sqrt(2) K.
        """
        return None

    def check(self) -> None:
        """Raise ValueError if attributes contradict the weights, so that the bound would be that of another function.

        Certificates call this first. Nothing needs to be checked if the bound reads what ``forward`` reads.
        """

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return facts for the report of the layers, for samples of this input shape."""
        return {}

    def children_in_order(self) -> list[tuple[str, nn.Module]] | None:
        """Return the names and modules that ``forward`` runs one after another, doing nothing else; None otherwise.

        A composite module that lists its children needs no bound of its own: `lipnet.certify` walks the children.
        """
        return None


class LinearFeatures:
    """Mixin of linear layers that compute as a 1 x 1 convolution of one pixel: torch's names for the channels."""

    dimensions: ClassVar[int] = 0
    in_channels: int
    out_channels: int

    @property
    def in_features(self) -> int:
        return self.in_channels

    @property
    def out_features(self) -> int:
        return self.out_channels


def own_bound(module: nn.Module) -> float:
    """Return the bound of a `LipschitzModule`, or the product of the bounds of a plain ``nn.Sequential`` of them.

    Raises:
        TypeError: for any other module than these, ``nn.Identity`` and ``nn.Flatten``.
    """
    if isinstance(module, (nn.Identity, nn.Flatten)):
        return 1.0
    if type(module) is nn.Sequential:
        return product_up(own_bound(child) for child in module)
    if not isinstance(module, LipschitzModule):
        raise TypeError(
            f"{type(module).__name__} does not bound itself; lipnet.certify.lipschitz_bound(model) has rules for "
            "torch's modules"
        )
    return module.lipschitz_bound()
