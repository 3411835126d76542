"""The arithmetic of certificates: IEEE floating point, and in float64 only plain sums of products."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.autocast import without_autocast
from lipnet.layers.explicit import explicit_products
from lipnet.overrides import override_attributes


@contextmanager
def explicit_arithmetic(model: nn.Module) -> Iterator[None]:
    """Compute logits with the arithmetic of certificates within the context.

    In float64, layers use only plain sums of products, whose rounding `rounding_bounds` bounds. In another dtype, the
    model is unchanged and computes in IEEE arithmetic of that dtype. One thread at a time is inside; others wait. The
    process's settings and the model are restored at the end, also after an exception.

    Args:
        model: its first parameter decides the device and the dtype.

    Raises:
        RuntimeError: if torch's settings or the layers' were changed meanwhile, so that the results are not covered.
    """
    reference = reference_tensor(model)
    if reference.dtype != torch.float64:
        with ieee_arithmetic(reference.device):
            yield
    else:
        with dot_product_arithmetic(reference.device), explicit_products(model):
            yield


@contextmanager
def ieee_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute float32 as float32 and float64 as float64 within the context: no TF32, no bfloat16, no autocast.

    Numbers below the normal range count, even after ``torch.set_flush_denormal(True)``.

    Raises:
        RuntimeError: if another thread changed torch's settings meanwhile.
    """
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    with without_autocast(device), _held(switches, "fp32_precision", "ieee"), _gradual_underflow():
        yield


@contextmanager
def dot_product_arithmetic(device: torch.device) -> Iterator[None]:
    """Use `ieee_arithmetic` within the context, and compute every convolution as a plain matrix product.

    cuDNN and oneDNN are off: they may choose Winograd or Fourier algorithms, whose rounding has no bound here.

    Raises:
        RuntimeError: if another thread changed torch's settings meanwhile.
    """
    backends: Any = torch.backends
    with ieee_arithmetic(device), _held((backends.cudnn, backends.mkldnn), "enabled", False):
        yield


@contextmanager
def _gradual_underflow() -> Iterator[None]:
    """Do not flush numbers below the normal range to zero within the context.

    The mode belongs to a thread. torch's worker threads inherit it when they start, and nothing can reset it there. If
    they flush, this thread computes alone.
    """
    # torch sets this mode and does not tell it. In this mode, such a number equals 0.
    flushes = bool(torch.tensor(2.0**-1030, dtype=torch.float64, device="cpu") == 0)
    torch.set_flush_denormal(False)
    threads = torch.get_num_threads()
    alone = _workers_flush(threads)
    try:
        if alone:
            torch.set_num_threads(1)
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)


def _workers_flush(threads: int) -> bool:
    """Return whether any of torch's threads, this one included, flushes numbers below the normal range to zero."""
    if threads == 1:
        return False
    # torch gives a thread at least this many entries.
    numbers = torch.full((threads * 2**15,), 2.0**-1030, dtype=torch.float64, device="cpu")
    return not bool((numbers > 0).all())


@contextmanager
def _held(switches: Iterable[Any], name: str, value: Any) -> Iterator[None]:
    """Set a switch within the context, and check at the end that no other thread has changed it."""
    switches = tuple(switches)
    with override_attributes(switches, name, value):
        yield
        if any(getattr(switch, name) != value for switch in switches):
            raise RuntimeError(
                f"torch's setting {name} was changed by another thread while certificates were computed; "
                "change it before or after"
            )


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model on a batch in the current arithmetic; return the logits (B, C) on the CPU, without gradients.

    Raises:
        ValueError: if the model returns anything but one row of logits for each image.
    """
    reference = reference_tensor(model)
    with torch.no_grad():
        # A copy, because a model may begin with a module that works in place.
        logits: Tensor = model(images.to(reference.device, reference.dtype, copy=True))
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        received = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must map {len(images)} images to logits ({len(images)}, C), got {received}")
    return logits.cpu()


def reference_tensor(model: nn.Module) -> Tensor:
    """Return a tensor with the model's device and dtype: its first parameter, or an empty float64 tensor."""
    return next(model.parameters(), torch.empty(0, dtype=torch.float64))
