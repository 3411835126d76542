"""A trained model as a plain module of torch, with everything that depends on the weights alone computed beforehand."""

from lipnet.layers.exporting.plain import declared_input_shape, example_batch, export

__all__ = ["declared_input_shape", "example_batch", "export"]
