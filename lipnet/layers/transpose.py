"""The transposed skew-orthogonal convolution, used like ``nn.ConvTranspose2d``."""

from collections.abc import Sequence
from typing import ClassVar, Self, Unpack

from torch import Tensor, nn

from lipnet.functional import depth_to_space
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import SOCOptions, check_output_padding, check_weight, for_channels
from lipnet.layers.initial import reset_bias
from lipnet.layers.soc import SCALINGS, SOC

# Options that a layer and its transpose share. The scaling is shared as a module, device and dtype with the weight.
_OPTIONS = tuple(name for name in SOCOptions.__annotations__ if name not in ("scaling", "device", "dtype"))


class SOCTranspose(SOC):
    r"""Transposed skew-orthogonal convolution: :math:`y = \exp(-J)\,x + b`, which enlarges the maps by its stride.

    With the same weight it is the adjoint of ``SOC(out_channels, in_channels, stride=stride)`` without bias, since
    exp(-J) is the transpose of exp(J). The input is padded with zeros to max(in_channels, out_channels * stride^2)
    channels (an isometry), the first out_channels * stride^2 channels of the result are kept (a contraction), and
    depth-to-space spreads every stride^2 of them over stride x stride pixels. The layer is

    - orthogonal, the inverse of that SOC, if in_channels = out_channels * stride^2;
    - an isometry, which that SOC inverts, if in_channels < out_channels * stride^2;
    - a contraction with orthonormal rows, which inverts that SOC, if in_channels > out_channels * stride^2.

    `of` makes the transpose of a layer, tied to its weight; `inverse_of` makes its inverse.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode:
            in the order of ``nn.ConvTranspose2d``, with the restrictions of `SOC`. output_padding must be 0.
        options: see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H stride, W stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> import torch
        >>> layer = SOCTranspose(8, 3, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 3, 32, 32])
        >>> layer.lipschitz_bound()
        1.0
    """

    transposed = True
    _counterpart: ClassVar[type[SOC]] = SOC

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        padding: str | int | Sequence[int] = "same",
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        **options: Unpack[SOCOptions],
    ) -> None:
        check_output_padding(output_padding, self.dimensions)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, **options
        )
        # Subtracted from the input if this layer is the inverse of one with a bias.
        self.input_bias: nn.Parameter | None = None

    @classmethod
    def of(cls, layer: SOC, *, bias: bool = False) -> Self:
        """Return the transpose of a `SOC`, tied to it by the same weight parameter and the same scaling.

        It is the adjoint of the layer without its bias. This also holds in training, where both use the same estimate
        of the scale. Optimizers, ``load_state_dict``, ``to`` and ``deepcopy`` of a model with both keep them tied. A
        new parameter object for one of them, such as by ``load_state_dict(assign=True)``, unties them.

        Args:
            layer: the SOC; the transpose is in the same mode, training or evaluation.
            bias: add a new bias to the outputs of the transpose.

        Raises:
            ValueError: if the layer is not exactly a `SOC`: inputs of a subclass may have another shape.

        Example:
            >>> import torch
            >>> encoder = SOC(4, 8, stride=2, bias=False, eval_tolerance=1e-12, dtype=torch.float64).eval()
            >>> decoder = SOCTranspose.of(encoder)
            >>> code = torch.ones(1, 8, 4, 4, dtype=torch.float64)
            >>> torch.allclose(encoder(decoder(code)), code)
            True
        """
        if type(layer) is not cls._counterpart:
            needed, received = cls._counterpart.__name__, type(layer).__name__
            raise ValueError(f"{cls.__name__} is the transpose of a {needed}, got {received}")
        # On the meta device: no memory and no random numbers for a weight that is replaced at once.
        transpose = cls(
            layer.out_channels,
            layer.in_channels,
            layer._given(layer.kernel_size),
            layer._given(layer.stride),
            groups=layer.groups,
            bias=False,
            padding_mode=layer.padding_mode,
            scaling=next(name for name, kind in SCALINGS.items() if type(layer.scaling) is kind),
            device="meta",
            **{name: getattr(layer, name) for name in _OPTIONS},
        )
        transpose.weight, transpose.scaling = layer.weight, layer.scaling
        if bias:
            transpose.bias = nn.Parameter(layer.weight.new_empty(layer.in_channels))
            reset_bias(transpose.bias)
        transpose.train(layer.training)
        return transpose

    @classmethod
    def inverse_of(cls, layer: SOC) -> Self:
        """Return the inverse of a `SOC` that loses no channels, tied to it: subtract its bias, apply its transpose.

        In evaluation ``inverse(layer(x))`` differs from x by at most 2 * eval_tolerance times the norm of x, besides
        rounding; in training by about 2 * train_tolerance. If out_channels = in_channels * stride^2, the same holds for
        ``layer(inverse(y))`` and y, relative to the norm of y minus the bias.

        Raises:
            ValueError: if in_channels * stride^2 > out_channels, and as in `of`.

        Example:
            >>> import torch
            >>> layer = SOC(2, 8, stride=2, eval_tolerance=1e-12, dtype=torch.float64).eval()
            >>> x = torch.ones(1, 2, 4, 4, dtype=torch.float64)
            >>> torch.allclose(SOCTranspose.inverse_of(layer)(layer(x)), x)
            True
        """
        inverse = cls.of(layer)
        if inverse.channels_out > layer.out_channels:
            raise ValueError(
                f"a layer that loses channels has no inverse, got {type(layer).__name__}({layer.extra_repr()}), which "
                f"keeps {layer.out_channels} of {inverse.channels_out} channels after space-to-depth"
            )
        inverse.input_bias = layer.bias
        return inverse

    def extra_repr(self) -> str:
        return super().extra_repr() + (", input_bias=True" if self.input_bias is not None else "")

    def _check_weights(self) -> None:
        super()._check_weights()
        check_weight("input_bias", self.input_bias, (self.in_channels,))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        height, width = self.inner_size(signal.shape)
        shift = addition(signal, self.input_bias, height * width)
        return shift.then(super().rounding_step(signal.after(shift, signal.shape), shape))

    def _forward(self, x: Tensor) -> Tensor:
        maps = x if self.input_bias is None else x - for_channels(self.input_bias, x)
        maps = depth_to_space(self.exponential(maps, self.channels_out, sign=-1), self.stride)
        return maps if self.bias is None else maps + for_channels(self.bias, maps)
