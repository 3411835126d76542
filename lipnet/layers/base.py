"""LipschitzModule, the base class of layers that bound their own Lipschitz constant and rounding."""

from typing import Any, ClassVar

from torch import Tensor, nn

from lipnet.functional.rounding import product_up
from lipnet.functional.rounding_error import Signal, Step
from lipnet.layers.mirror import MirrorAverage
from lipnet.layers.originals import WatchedModule


class LipschitzModule(WatchedModule):
    """A module that bounds its own Lipschitz constant and its own rounding error.

    Inherit from it to make a layer that `lipnet.certify` accepts, and implement `lipschitz_bound`. Certificates in
    float64 also need `rounding_step`. A class that overrides ``forward`` must also define `lipschitz_bound`, itself or
    in a subclass: certificates refuse a bound inherited from a class with another ``forward``.

    docs/own-layer.md builds such a layer step by step; docs/notation.md defines symbols such as K.
    """

    def lipschitz_bound(self) -> float:
        """Return an upper bound K on the Lipschitz constant (L2 to L2) of the function this module computes now.

        Compute it from the very tensors that ``forward`` multiplies with, and round up. Return infinity for weights
        that are not finite. By default, return the product of the bounds of `children_in_order`.

        Raises:
            NotImplementedError: by default, if the module does not list its children.
            TypeError: by default, for a child that does not bound itself. `lipnet.certify.lipschitz_bound` also knows
                modules that have a rule.
        """
        children = self.children_in_order()
        if children is None:
            raise NotImplementedError(f"{type(self).__name__} does not implement lipschitz_bound()")
        return product_up(own_bound(child) for _, child in children)

    def lipschitz_estimate(self) -> float:
        """Return an estimate of `lipschitz_bound`, for validation during training; by default, the bound itself.

        Override it in a layer whose bound needs a slow proof. `lipnet.certify` asks each child of a composite module.
        """
        return self.lipschitz_bound()

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding error of ``forward`` in float64.

        Args:
            signal: bounds on the input of one sample.
            shape: shape of the output of one sample.

        Returns:
            Bounds on the norm of the exact output, on the Lipschitz constant, and on the error that this layer adds.
            `lipnet.functional.rounding_error` has functions that build them.

        Raises:
            NotImplementedError: by default.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement rounding_step()")

    def pairwise_lipschitz(self) -> Tensor | None:
        """Return bounds on the Lipschitz constants of all differences of two outputs, float64 (C, C), or None.

        Certificates only call it for the last layer of a classifier. None stands for sqrt(2) K for every pair.
        """
        return None

    def check(self) -> None:
        """Raise ValueError if attributes contradict the weights, since the bound would hold for another function.

        Certificates first call the checks of all classes of a layer. A layer whose bound reads the same attributes as
        ``forward`` needs no check.
        """

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return facts by name for the report of the layers, for input samples of this shape."""
        return {}

    def children_in_order(self) -> list[tuple[str, nn.Module]] | None:
        """Return the names and modules that ``forward`` runs in this order, if it does nothing else; otherwise None.

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


def check_part(name: str, part: object, *classes: type) -> None:
    """Raise ValueError unless a layer's part is of one of these classes, on which the layer's bound rests.

    A subclass is refused, too: it may compute something else than the bound is about.

    Args:
        name: name of the part in the layer.
        part: the part.
        classes: the classes that it may have.
    """
    if type(part) not in classes:
        needed = " or ".join(each.__name__ for each in classes)
        raise ValueError(f"{name} must be of class {needed}, on which the bound rests, got {type(part).__name__}")


def own_bound(module: nn.Module) -> float:
    """Return the bound of a `LipschitzModule`, or the product of the bounds of a plain ``nn.Sequential`` of them.

    The bound of a `MirrorAverage` is that of its body.

    Raises:
        TypeError: for any other module, except ``nn.Identity`` and ``nn.Flatten``, whose bound is 1.
    """
    if type(module) in (nn.Identity, nn.Flatten):
        return 1.0
    if type(module) is nn.Sequential:
        return product_up(own_bound(child) for child in module)
    if type(module) is MirrorAverage:
        return own_bound(module.body)
    if not isinstance(module, LipschitzModule):
        raise TypeError(
            f"{type(module).__name__} does not bound itself; lipnet.certify.lipschitz_bound(model) also knows modules "
            "that have a rule"
        )
    return module.lipschitz_bound()
