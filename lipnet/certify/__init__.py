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
from lipnet.certify.certificates import Certificates, certify
from lipnet.certify.exporting import export_onnx, export_program
from lipnet.certify.logits import LogitBounds, logit_bounds
from lipnet.certify.report import certify_dataset
from lipnet.certify.summary import read_summary, summary_table

__all__ = [
    "PGD",
    "AttackResult",
    "AutoAttack",
    "CertificateFileError",
    "CertificateViolationError",
    "Certificates",
    "LogitBounds",
    "UnsoundCertificatesError",
    "attack",
    "certify",
    "certify_dataset",
    "export_onnx",
    "export_program",
    "lipschitz_bound",
    "logit_bounds",
    "read_certificates",
    "read_summary",
    "summary_table",
]
