"""Skew-orthogonal convolutions of sequences, used like ``nn.Conv1d`` and ``nn.ConvTranspose1d``."""

from lipnet.layers.soc import SOC
from lipnet.layers.transpose import SOCTranspose


class SOC1d(SOC):
    r"""Skew-orthogonal convolution of sequences: :math:`y = \exp(J)\,x + b` with a skew-symmetric 1-d convolution J.

    It is a `SOC` with a 1 x k kernel on maps of height 1, with the same guarantee and options. A stride moves
    neighbouring entries into channels, so c = max(in_channels * stride, out_channels). The parameter ``weight`` has
    shape (c, c/groups, 1, k), and `choice` takes the size (1, L / stride).

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv1d``, with the restrictions of `SOC`.
        options: see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, L) or (in_channels, L) to (..., out_channels, L / stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> import torch
        >>> layer = SOC1d(2, 16, kernel_size=5, stride=4).eval()
        >>> layer(torch.zeros(1, 2, 32)).shape
        torch.Size([1, 16, 8])
        >>> layer.lipschitz_bound()
        1.0
    """

    dimensions = 1


class SOCTranspose1d(SOCTranspose):
    r"""Transposed skew-orthogonal convolution of sequences: :math:`y = \exp(-J)\,x + b`, which makes them longer.

    With the same weight it is the adjoint of ``SOC1d(out_channels, in_channels, stride=stride)`` without bias, and
    c = max(in_channels, out_channels * stride); see `SOCTranspose`. ``SOCTranspose1d.of`` and
    ``SOCTranspose1d.inverse_of`` take a `SOC1d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode:
            in the order of ``nn.ConvTranspose1d``, with the restrictions of `SOCTranspose`.
        options: see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, L) or (in_channels, L) to (..., out_channels, L stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> import torch
        >>> layer = SOCTranspose1d(16, 2, kernel_size=5, stride=4).eval()
        >>> layer(torch.zeros(1, 16, 8)).shape
        torch.Size([1, 2, 32])
        >>> layer.lipschitz_bound()
        1.0
    """

    dimensions = 1
    _counterpart = SOC1d
