"""Orthogonal linear layer by SOC."""

from typing import Unpack

from lipnet.layers.arguments import SOCOptions
from lipnet.layers.base import LinearFeatures
from lipnet.layers.soc import SOC


class SOCLinear(LinearFeatures, SOC):
    """Linear layer by a 1 x 1 SOC: orthonormal rows if it reduces the features, else orthonormal columns.

    Its matrix is the first ``out_features`` rows and ``in_features`` columns of a c x c orthogonal matrix,
    c = max(in_features, out_features). It is the default head of LipConvNet.

    Args:
        in_features, out_features, bias: as in ``nn.Linear``.
        options: see `lipnet.layers.arguments.SOCOptions`.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: for an input of another shape.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **options: Unpack[SOCOptions]) -> None:
        super().__init__(in_features, out_features, kernel_size=1, bias=bias, **options)
