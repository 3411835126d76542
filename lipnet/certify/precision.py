"""Arithmetic for certification: no TF32, no bfloat16, no autocast; convolutions as sums of products."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def ieee_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 and float64 as float64, whatever the process is set to; restored at the end."""
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [switch.fp32_precision for switch in switches]
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        try:
            for switch in switches:
                switch.fp32_precision = "ieee"
            yield
        finally:
            for switch, precision in zip(switches, before, strict=True):
                switch.fp32_precision = precision


@contextmanager
def dot_product_arithmetic(device: torch.device) -> Iterator[None]:
    """`ieee_arithmetic`, and every convolution as the matrix product that it is, without libraries that might take
    Winograd's or a Fourier transform: what a bound on the rounding needs. Restored at the end."""
    backends: Any = torch.backends
    libraries = (backends.cudnn, backends.mkldnn)
    before = [library.enabled for library in libraries]
    with ieee_arithmetic(device):
        try:
            for library in libraries:
                library.enabled = False
            yield
        finally:
            for library, enabled in zip(libraries, before, strict=True):
                library.enabled = enabled
