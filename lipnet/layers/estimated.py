"""Evaluation with scales that start from those of training, for validation between training steps."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lipnet.layers.soc import SOC
from lipnet.overrides import override_attributes


@contextmanager
def estimated_scales(model: nn.Module) -> Iterator[None]:
    """Evaluate skew-orthogonal layers with a scale that starts from the vectors of training, in this context.

    Evaluation by itself computes the scale from the weights alone, and caches matrices. That costs as much as several
    training steps and pays off over many batches. The estimate costs a fraction of a step. Groups of few channels have
    the same scale; that of others may differ by about one per cent and depends on the stored vectors. Certificates
    refuse such a model.

    Args:
        model: in evaluation mode; layers in training mode are not affected.
    """
    layers = [module for module in model.modules() if isinstance(module, SOC)]
    with override_attributes(layers, "estimated", True):
        yield
