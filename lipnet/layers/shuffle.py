"""Channel shuffles as modules."""

from torch import Tensor

from lipnet.functional import channel_shuffle, channel_unshuffle
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers.base import LipschitzModule


class ChannelShuffle(LipschitzModule):
    """Permutation of the channels that lets the next grouped convolution mix the groups of the previous one.

    With k groups and n channels, channel i moves to place (i mod k) n/k + floor(i/k). ``nn.ChannelShuffle(k)`` is the
    inverse. Paired shuffles move the channels 2j and 2j + 1 together, so that pairs of `MaxMinPermuted` stay pairs:
    channel i moves to place (floor(i/2) mod k) n/k + 2 floor(i/(2k)) + (i mod 2).

    Args:
        groups: k.
        paired: move neighbouring channels together.
        inverted: apply the inverse permutation instead.

    Shape:
        (B, n, ...) to the same shape.

    Raises:
        ValueError: for groups below 1; in the forward pass, unless n divides by k, or by 2k if paired.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).

    Example:
        >>> import torch
        >>> ChannelShuffle(groups=2)(torch.arange(6).view(1, 6)).tolist()
        [[0, 2, 4, 1, 3, 5]]
    """

    def __init__(self, groups: int, paired: bool = False, *, inverted: bool = False) -> None:
        super().__init__()
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups must be an integer of at least 1, got {groups}")
        self.groups, self.paired, self.inverted = groups, paired, inverted

    def forward(self, x: Tensor) -> Tensor:
        permute = channel_unshuffle if self.inverted else channel_shuffle
        return permute(x, self.groups, self.paired)

    def inverse(self) -> "ChannelShuffle":
        """Return the module that undoes this one."""
        return ChannelShuffle(self.groups, self.paired, inverted=not self.inverted)

    def lipschitz_bound(self) -> float:
        """Return 1: a permutation is an isometry."""
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Return an exact step: entries are moved, not changed."""
        return exact(signal)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, paired={self.paired}" + (", inverted=True" if self.inverted else "")
