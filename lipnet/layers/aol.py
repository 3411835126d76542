"""Almost-orthogonal layers (AOL): kernels rescaled column by column."""

from math import prod

import torch
from torch import Tensor, nn

from lipnet.functional.autocorrelation import absolute_gram, dominance_bound
from lipnet.layers.arguments import check_weight
from lipnet.layers.initial import reset_orthogonal
from lipnet.layers.kernel import ConvolutionLayer, MatrixLayer
from lipnet.layers.operands import Operands


def rescaled_columns(weight: Tensor, groups: int = 1) -> Tensor:
    """Divide each input channel of a filter by the square root of its row sum in B = `absolute_gram`.

    Let W be the matrix of the convolution, d_i = (sum_j B_ij)^(-1/2) and D = diag(d). Then D^(-2) - W^T W is diagonally
    dominant, so D W^T W D <= I. Channels of zeros stay zeros.

    Args:
        weight: filter (c_out, c_in/groups, kh, kw).
        groups: number of groups.
    """
    sums = absolute_gram(weight, groups).sum(dim=-1)
    scales = torch.where(sums > torch.finfo(sums.dtype).tiny, sums, 1.0).rsqrt()
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * scales[:, None, :, None, None]).view(weight.shape)


class AOL(ConvolutionLayer):
    """Almost-orthogonal convolution: x -> W D x + b with a diagonal D that makes ||W D|| <= 1.

    W is any filter, the parameter ``weight``. D scales its input channels (see `rescaled_columns`). The layer is cheap
    in training, and training drives W towards orthogonal columns, because D shrinks these least.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            ``nn.Conv2d``. The kernel must be odd, padding ``"same"`` or its value, dilation 1, and the padding mode
            ``"zeros"`` or ``"circular"``. A stride is space-to-depth.
        device, dtype: of the parameters.

    Shape:
        (B, in_channels, H, W) or (in_channels, H, W) to (..., out_channels, H / stride, W / stride).

    Raises:
        ValueError: for a setting that the layer does not support, and for inputs of the wrong shape.

    Source: Prach & Lampert, "Almost-orthogonal layers for efficient general-purpose Lipschitz networks", ECCV 2022
    (arXiv 2208.03160). As in the authors' code, W starts as the identity and the bias at 0. The row sums grow with
    every tap that is not 0, so the layer needs a smaller learning rate than others: in a small LipConvNet on
    scikit-learn's digits, SGD learns at 1e-3 and stalls at 0.1, whereas SLL, CPL and BCOP learn at 0.1.

    Example:
        >>> layer = AOL(3, 8, stride=2).eval()
        >>> layer(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 8, 16, 16])
        >>> round(layer.lipschitz_bound(), 6)
        1.0
    """

    def make_parameters(
        self, in_channels: int, *, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.weight = nn.Parameter(torch.empty(self._weight_shape, device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def _weight_shape(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels * prod(self.stride) // self.groups, *self.kernel_size

    def check(self) -> None:
        super().check()
        check_weight("weight", self.weight, self._weight_shape)

    def reset_parameters(self) -> None:
        """Start as the identity on the first channels of each group, without bias."""
        nn.init.dirac_(self.weight, self.groups)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        return (rescaled_columns(weights[0], self.groups),)

    def bound_operands(self, operands: Operands) -> float:
        return dominance_bound(operands[0], self.groups)


class AOLLinear(MatrixLayer):
    """Almost-orthogonal linear layer: x -> W D x + b with a diagonal D that makes ||W D|| <= 1, see `AOL`.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        device, dtype: of the parameters.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: for an input of another shape.

    Example:
        >>> AOLLinear(4, 2).eval()(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(out_features, in_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start orthogonal, without bias."""
        reset_orthogonal(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def weights(self) -> list[Tensor]:
        return [self.weight]

    def check(self) -> None:
        super().check()
        check_weight("weight", self.weight, (self.out_features, self.in_features))

    def compute_operands(self, *weights: Tensor, size: tuple[int, int]) -> Operands:
        return (rescaled_columns(weights[0][..., None, None]),)

    def bound_operands(self, operands: Operands) -> float:
        return dominance_bound(operands[0])
