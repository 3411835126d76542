"""A trained model as a plain torch module, in which everything that depends on the weights alone is a constant."""

from lipnet.layers.export.model import declared_input_shape, example_batch, export

__all__ = ["declared_input_shape", "example_batch", "export"]
