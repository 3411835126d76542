"""Arithmetic for certification: no TF32, no bfloat16, no autocast."""

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
