"""Arithmetic for certification: no TF32, no bfloat16, no autocast; convolutions as sums of products."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lipnet.functional.autocast import without_autocast
from lipnet.overrides import override_attributes


@contextmanager
def ieee_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 and float64 as float64, whatever the process is set to; restored at the end."""
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    with without_autocast(device), override_attributes(switches, "fp32_precision", "ieee"):
        yield


@contextmanager
def dot_product_arithmetic(device: torch.device) -> Iterator[None]:
    """`ieee_arithmetic`, and every convolution as the matrix product that it is, without libraries that might take
    Winograd's or a Fourier transform: what a bound on the rounding needs. Restored at the end."""
    backends: Any = torch.backends
    libraries = (backends.cudnn, backends.mkldnn)
    with ieee_arithmetic(device), override_attributes(libraries, "enabled", False):
        yield
