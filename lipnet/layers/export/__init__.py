"""A trained model as a plain torch module, with everything that depends on the weights alone computed beforehand."""

from lipnet.layers.export.model import declared_input_shape, example_batch, export

__all__ = ["declared_input_shape", "example_batch", "export"]
