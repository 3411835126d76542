"""Lipschitz bounds of whole models, certificates of their predictions, and reports on them."""

from lipnet.certify import torch_rules as torch_rules  # registers the rules
from lipnet.certify import torch_rules_activations as torch_rules_activations
from lipnet.certify import torch_rules_batchnorm as torch_rules_batchnorm
from lipnet.certify import torch_rules_resampling as torch_rules_resampling
from lipnet.certify.arithmetic import explicit_arithmetic
from lipnet.certify.attacks.autoattack import AutoAttack
from lipnet.certify.attacks.check import Attacker, attack
from lipnet.certify.attacks.pgd import PGD
from lipnet.certify.attacks.result import AttackResult
from lipnet.certify.attacks.violation import CertificateViolationError, UnsoundCertificatesError
from lipnet.certify.bounds import LogitBounds, lipschitz_bound, logit_bounds
from lipnet.certify.certificates import Certificates, Deviation, certify, measured_deviation
from lipnet.certify.evidence import Evidence
from lipnet.certify.explain import ExplainedModule, Explanation, explain
from lipnet.certify.export import export_onnx, export_program
from lipnet.certify.files import CertificateFile, CertificateFileError, Row, read_certificates, read_summary
from lipnet.certify.report import Layer, layer_report, layer_table, rounding_sentence, summary_table
from lipnet.certify.rounding import RoundedModule, RoundingBounds, rounding_bounds
from lipnet.certify.rules import Rule, rule
from lipnet.certify.run import certify_dataset
from lipnet.functional.rounding_error import Signal, Step

__all__ = ["LogitBounds", "Rule", "Signal", "Step", "explicit_arithmetic", "lipschitz_bound", "logit_bounds", "rule"]
__all__ += ["Deviation", "RoundedModule", "RoundingBounds", "measured_deviation", "rounding_bounds"]
__all__ += ["Certificates", "Evidence", "certify", "certify_dataset"]
__all__ += ["CertificateFile", "CertificateFileError", "Row", "read_certificates", "read_summary"]
__all__ += ["ExplainedModule", "Explanation", "explain"]
__all__ += ["Layer", "layer_report", "layer_table", "rounding_sentence", "summary_table"]
__all__ += ["PGD", "AttackResult", "Attacker", "AutoAttack", "attack"]
__all__ += ["CertificateViolationError", "UnsoundCertificatesError"]
__all__ += ["export_onnx", "export_program"]
