"""The convolution on maps whose channels are next to each other in memory, as matrix units for bfloat16 read them."""

import torch
from torch import Tensor

from lipnet.functional.forms.direct import Direct


class ChannelsLast(Direct):
    """Form for processors that multiply bfloat16: one conversion to ``torch.channels_last`` for all convolutions."""

    def enter(self, maps: Tensor) -> Tensor:
        return maps.contiguous(memory_format=torch.channels_last)
