"""Parts that the networks share."""

from collections.abc import Callable, Sequence
from inspect import signature

from torch import nn

from lipnet.layers import MirrorAverage, Normalize
from lipnet.layers.base import LipschitzModule

LayerFactory = Callable[..., nn.Module]


class LipschitzSequential(nn.Sequential, LipschitzModule):
    """An ``nn.Sequential`` whose Lipschitz bound is the product of its children's bounds."""

    def children_in_order(self) -> list[tuple[str, nn.Module]] | None:
        # A subclass may run its children in another way, or something else.
        plain = all(getattr(type(self), name) is getattr(nn.Sequential, name) for name in ("forward", "__iter__"))
        # Not named_children(), which lists a module once even if it runs twice.
        return list(self._modules.items()) if plain else None


def make_normalize(mean: Sequence[float] | None, std: float, in_channels: int, image_size: int) -> Normalize:
    """Make the first module of a network; a mean of None is 0.

    Raises:
        ValueError: the mean does not have one number per channel, or `Normalize` refuses a value.
    """
    means = [0.0] * in_channels if mean is None else list(mean)
    if len(means) != in_channels:
        raise ValueError(f"mean must have one number for each of {in_channels} channels, got {means}")
    return Normalize(means, std, image_size)


def make_activation(activation: LayerFactory, channels: int) -> nn.Module:
    """Make an activation, with its number of channels if it takes one."""
    return activation(channels=channels) if "channels" in signature(activation).parameters else activation()


def average_with_mirror(network: LipschitzSequential) -> None:
    """Put all modules between ``normalize`` and ``head`` into one, ``features``: the `MirrorAverage` of them."""
    head = network._modules.pop("head")
    body = nn.Sequential()
    for name in [name for name in network._modules if name != "normalize"]:
        body.add_module(name, network._modules.pop(name))
    network.add_module("features", MirrorAverage(body))
    network.add_module("head", head)


def check_integers(**settings: object) -> None:
    """Raise ValueError for the first of these settings, named by its keyword, that is not an integer."""
    for name, value in settings.items():
        if not isinstance(value, int):
            raise ValueError(f"{name} must be an integer, got {value!r}")
