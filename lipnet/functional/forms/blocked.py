"""The convolution in oneDNN's blocked layout, which avoids the conversions of every ``F.conv2d`` on the CPU."""

from torch import Tensor

from lipnet.functional.forms.direct import Direct


class Blocked(Direct):
    """Form for zero padding in float32 on the CPU: feature maps stay in the layout that oneDNN computes in."""

    def enter(self, maps: Tensor) -> Tensor:
        return maps if maps.is_mkldnn else maps.contiguous().to_mkldnn()

    def leave(self, maps: Tensor) -> Tensor:
        return maps.to_dense()

    def apply(self, maps: Tensor, shift: float = 0.0, sign: int = 1) -> Tensor:
        # The layout has no addition with a factor, so the shift always goes into the filter.
        return self._convolve(maps, self.weight if shift == 0 and sign == 1 else self._shifted(shift, sign))
