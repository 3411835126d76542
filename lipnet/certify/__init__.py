"""Lipschitz bounds of whole models, certificates of their predictions, and reports of them."""

from lipnet.certify.attacks import (
    PGD,
    AttackResult,
    AutoAttack,
    CertificateViolationError,
    UnsoundCertificatesError,
    attack,
)
from lipnet.certify.bound import lipschitz_bound
from lipnet.certify.certificate_file import CertificateFileError, read_certificates
from lipnet.certify.certificates import Certificates, certify, explicit_arithmetic
from lipnet.certify.deviation import Deviation, measured_deviation
from lipnet.certify.evidence import Evidence, rounding_sentence
from lipnet.certify.exporting import export_onnx, export_program
from lipnet.certify.layers import Layer, layer_report, layer_table
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.certify.report import certify_dataset
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.certify.summary import read_summary, summary_table

__all__ = [
    "PGD",
    "AttackResult",
    "AutoAttack",
    "CertificateFileError",
    "CertificateViolationError",
    "Certificates",
    "Deviation",
    "Evidence",
    "Layer",
    "LogitBounds",
    "RoundingBounds",
    "UnsoundCertificatesError",
    "attack",
    "certify",
    "certify_dataset",
    "explicit_arithmetic",
    "export_onnx",
    "export_program",
    "layer_report",
    "layer_table",
    "lipschitz_bound",
    "logit_bounds",
    "measured_deviation",
    "read_certificates",
    "read_summary",
    "rounding_bounds",
    "rounding_sentence",
    "summary_table",
]
