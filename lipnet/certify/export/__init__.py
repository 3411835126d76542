"""Export models to ONNX and torch.export files, which run without lipnet and state their Lipschitz bound."""

from lipnet.certify.export.onnx import export_onnx
from lipnet.certify.export.program import METADATA_FILE, export_program

__all__ = ["METADATA_FILE", "export_onnx", "export_program"]
