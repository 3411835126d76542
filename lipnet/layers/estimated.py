"""Evaluation with estimated scales, for validation between training steps."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lipnet.layers.soc import SOC
from lipnet.overrides import override_attributes


@contextmanager
def estimated_scales(model: nn.Module) -> Iterator[None]:
    """Evaluate skew-orthogonal layers in this context with a scale that is estimated from the vectors of training.

    Normal evaluation computes the scale from the weights alone, and caches matrices. That costs as much as several
    training steps and pays off over many batches. The estimate costs a fraction of a step. Groups of few channels get
    the same scale as in normal evaluation. The scale of larger groups depends on the stored vectors, and may differ by
    about one per cent. Certificates refuse such a model.

    Args:
        model: in evaluation mode; layers in training mode are not affected.
    """
    layers = [module for module in model.modules() if isinstance(module, SOC)]
    with override_attributes(layers, "estimated", True):
        yield
