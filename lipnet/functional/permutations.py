"""Channel shuffles: the permutations between the factors of a group-and-shuffle (GS) matrix."""

import torch
from torch import Tensor


def shuffle_permutation(channels: int, groups: int, paired: bool = False) -> Tensor:
    """Return the permutation P_(groups, channels) as sigma: channel i goes to place sigma(i).

    With k groups and n channels, indices from 0:

    - plain: sigma(i) = (i mod k) n/k + floor(i/k);
    - paired: sigma(i) = (floor(i/2) mod k) n/k + 2 floor(i/(2k)) + (i mod 2), which keeps the channels 2j and
      2j+1 together.

    Returns:
        sigma, int64 of shape (channels,).

    Raises:
        ValueError: unless the channels divide by k, or by 2k if paired.

    Source: Gorbunov et al., "Group and Shuffle", NeurIPS 2024 (arXiv 2406.10019).
    """
    check_shuffle(channels, groups, paired)
    i = torch.arange(channels)
    if paired:
        return (i // 2) % groups * (channels // groups) + 2 * (i // (2 * groups)) + i % 2
    return i % groups * (channels // groups) + i // groups


def check_shuffle(channels: int, groups: int, paired: bool) -> None:
    """Raise ValueError unless `shuffle_permutation` exists for these arguments."""
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"groups must be an integer of at least 1, got {groups}")
    unit = 2 * groups if paired else groups
    if channels % unit:
        kind, divisor = ("paired shuffle", f"2 * groups = {unit}") if paired else ("shuffle", str(unit))
        raise ValueError(
            f"channels must be divisible by {divisor} for a {kind} with {groups} groups, got {channels} channels"
        )


def channel_shuffle(x: Tensor, groups: int, paired: bool = False) -> Tensor:
    """Send channel i of x, (B, C, ...), to place sigma(i) of `shuffle_permutation`.

    Raises:
        ValueError: unless C divides by groups, or by 2 * groups if paired.
    """
    check_shuffle(x.shape[1], groups, paired)
    pair = 2 if paired else 1
    return _transpose_channels(x, x.shape[1] // (groups * pair), groups, pair)


def channel_unshuffle(x: Tensor, groups: int, paired: bool = False) -> Tensor:
    """Invert `channel_shuffle`: send channel sigma(i) back to place i. Raises the same errors."""
    check_shuffle(x.shape[1], groups, paired)
    pair = 2 if paired else 1
    return _transpose_channels(x, groups, x.shape[1] // (groups * pair), pair)


def _transpose_channels(x: Tensor, rows: int, columns: int, pair: int) -> Tensor:
    """Read the channels as a matrix of rows x columns, with ``pair`` channels per entry, and transpose it."""
    return x.reshape(x.shape[0], rows, columns, pair, *x.shape[2:]).transpose(1, 2).flatten(1, 3)
