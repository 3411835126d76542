"""Lipschitz bounds of whole models, certificates of their predictions, and reports of them."""

from lipnet.certify import torch_rules as torch_rules  # registers them
from lipnet.certify.arithmetic import explicit_arithmetic
from lipnet.certify.attacks import (
    PGD,
    AttackResult,
    AutoAttack,
    CertificateViolationError,
    UnsoundCertificatesError,
    attack,
)
from lipnet.certify.bounds import LogitBounds, lipschitz_bound, logit_bounds
from lipnet.certify.certificates import Certificates, Deviation, certify, measured_deviation
from lipnet.certify.export import export_onnx, export_program
from lipnet.certify.files import CertificateFileError, read_certificates, read_summary
from lipnet.certify.report import Layer, layer_report, layer_table, rounding_sentence, summary_table
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.certify.rules import Rule, rule
from lipnet.certify.run import Evidence, certify_dataset
from lipnet.functional.rounding_error import Signal, Step

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
    "Rule",
    "Signal",
    "Step",
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
    "rule",
    "summary_table",
]
