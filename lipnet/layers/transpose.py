"""The transposed skew-orthogonal convolution, used like ``nn.ConvTranspose2d``."""

from math import sqrt
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from lipnet.functional import depth_to_space
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers.arguments import check_convolution, check_output_padding, pair
from lipnet.layers.scaling import SCALINGS
from lipnet.layers.skew_orthogonal import SkewOrthogonal, map_size, per_sample, with_channels
from lipnet.layers.soc import SOC

# What a layer and its transpose have in common, besides the filter, its scaling, and the shape of the convolution.
_OPTIONS = ("engine", "series", "train_terms", "eval_terms", "train_tolerance", "eval_tolerance", "recompute")


class SOCTranspose(SkewOrthogonal):
    r"""Transposed skew-orthogonal convolution: :math:`y = \exp(-J)\,x + b`, which enlarges the maps by its stride.

    With the same weight it is the adjoint of ``SOC(out_channels, in_channels, stride=stride)`` without bias, since
    exp(-J) is the transpose of exp(J). With c = max(in_channels, out_channels * stride^2) channels inside: the input is
    padded with zero channels up to c (an isometry), the first out_channels * stride^2 channels of the result are kept
    (a contraction), and depth-to-space spreads every stride^2 of them over stride x stride pixels. So the layer is

    - orthogonal if in_channels = out_channels * stride^2: the inverse of that SOC;
    - an isometry if it expands, in_channels < out_channels * stride^2: that SOC undoes it;
    - a contraction with orthonormal rows if it reduces: it undoes that SOC.

    :meth:`of` makes the transpose of a layer, tied to its weight, and :meth:`inverse_of` a layer's inverse.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode:
            in the order of ``nn.ConvTranspose2d``. As in `SOC`, the kernel must be odd; padding ``"same"`` or its value
            (k - 1) / 2; dilation 1; padding mode ``"zeros"`` or ``"circular"``. output_padding must be 0.
        options: the keyword options of `SOC`.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H stride, W stride).

    Raises:
        ValueError: for a setting that breaks the guarantee, and for inputs of the wrong shape.

    Example:
        >>> layer = SOCTranspose(8, 3, kernel_size=3, stride=2).eval()
        >>> layer(torch.zeros(1, 8, 16, 16)).shape
        torch.Size([1, 3, 32, 32])
        >>> layer.lipschitz_bound()
        1.0
    """

    _counterpart: ClassVar[type[SOC]] = SOC

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "same",
        output_padding: int | tuple[int, int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, int] = 1,
        padding_mode: str = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        self.in_channels, self.out_channels = in_channels, out_channels
        self.stride = pair(stride)
        channels = max(in_channels, self._kept_channels)
        formula = "max(in_channels, out_channels * stride^2)"
        check_convolution(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
            channels,
            formula=formula,
        )
        check_output_padding(output_padding)
        # Groups that see no input give zeros, and those beyond the channels that are kept are not asked for.
        per_group = channels // groups
        active_groups = min(-(-in_channels // per_group), -(-self._kept_channels // per_group))
        super().__init__(
            channels, pair(kernel_size), groups, active_groups, padding_mode, device=device, dtype=dtype, **options
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None
        # Subtracted from the input: the bias of the layer that this one is the inverse of.
        self.input_bias: nn.Parameter | None = None
        self.reset_parameters()

    @classmethod
    def of(cls, layer: SOC, *, bias: bool = False) -> Self:
        """The transpose of a `SOC`, tied to it: it has the same weight parameter and the same scaling.

        It is the adjoint of the layer without its bias: exactly in evaluation; in training, where every call takes the
        scale's estimate a step on, up to what that changes. The two are tied as modules of torch that share a parameter
        are: optimizers, ``load_state_dict``, ``to`` and ``deepcopy`` of a model with both keep them so, but giving one
        of them another parameter object (as ``load_state_dict(assign=True)`` does) unties them.

        Args:
            layer: in training or in evaluation mode, which the result is in, too.
            bias: whether the transpose has a bias, of its own, on its outputs.

        Raises:
            ValueError: if the layer is not exactly a `SOC`, but for instance a subclass with inputs of another shape.

        Example:
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
            *cls._geometry(layer),
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
            transpose._reset_bias()
        transpose.train(layer.training)
        return transpose

    @classmethod
    def inverse_of(cls, layer: SOC) -> Self:
        """The inverse of a `SOC` that loses no channels, tied to it: subtract its bias, then apply its transpose.

        In evaluation ``inverse(layer(x))`` differs from x by at most 2 * eval_tolerance times the norm of x, besides
        rounding; in training, by about 2 * train_tolerance at most. If out_channels = in_channels * stride^2, so does
        ``layer(inverse(y))`` from y, relative to y less the bias.

        Raises:
            ValueError: if in_channels * stride^2 > out_channels, and as in `of`.

        Example:
            >>> layer = SOC(2, 8, stride=2, eval_tolerance=1e-12, dtype=torch.float64).eval()
            >>> x = torch.ones(1, 2, 4, 4, dtype=torch.float64)
            >>> torch.allclose(SOCTranspose.inverse_of(layer)(layer(x)), x)
            True
        """
        inverse = cls.of(layer)
        if inverse._kept_channels > layer.out_channels:
            raise ValueError(
                f"a layer that loses channels has no inverse: got {type(layer).__name__}({layer.extra_repr()}), "
                f"of whose {inverse._kept_channels} channels after space-to-depth {layer.out_channels} are kept"
            )
        inverse.input_bias = layer.bias
        return inverse

    def reset_parameters(self) -> None:
        """Normal weights of standard deviation 1 / sqrt(channels in a group); biases as in `SOC`."""
        self.reset_weight()
        self._reset_bias()

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        return per_sample(self._batch, x)

    def extra_repr(self) -> str:
        kernel_size, stride = self._geometry(self)
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={kernel_size}, stride={stride}"]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.input_bias is not None:
            parts.append("input_bias=True")
        return ", ".join([*parts, *self.options_repr()])

    @property
    def _kept_channels(self) -> int:
        return self.out_channels * self.stride[0] * self.stride[1]

    @staticmethod
    def _geometry(layer: "SOC | SOCTranspose") -> tuple[Any, Any]:
        """Kernel size and stride in the form in which this class takes them."""
        return layer.kernel_size, layer.stride

    def _reset_bias(self) -> None:
        if self.bias is not None:
            nn.init.uniform_(self.bias, -1 / sqrt(self.out_channels), 1 / sqrt(self.out_channels))

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """The rounding of an evaluation with explicit products; see `lipnet.functional.rounding_error`."""
        height, width = map_size(signal.shape)
        first = addition(signal, self.input_bias, height * width)
        shifted = signal.after(first, signal.shape)
        second = self.exponential_step(shifted, (height, width))
        pixels = height * width * self.stride[0] * self.stride[1]
        third = addition(shifted.after(second, shape), self.bias, pixels)
        return first.then(second).then(third)

    def layer_facts(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """What the bound rests on, for samples of this shape: see `SkewOrthogonal.facts`."""
        return self.facts(map_size(shape))

    def _batch(self, x: Tensor) -> Tensor:
        maps = x if self.input_bias is None else x - self.input_bias.view(-1, 1, 1)
        maps = self.exponential(with_channels(maps, self._active_channels), self._kept_channels, sign=-1)
        maps = depth_to_space(maps, self.stride)
        return maps if self.bias is None else maps + self.bias.view(-1, 1, 1)

    def _check_input(self, x: Tensor) -> None:
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            needed = f"(B, {self.in_channels}, H, W) or ({self.in_channels}, H, W)"
            raise ValueError(f"{type(self).__name__} needs an input of shape {needed}, got {tuple(x.shape)}")
        self.check_maps(x.shape[-2], x.shape[-1])
