"""Building blocks of the three commands: configuration, data, models, certificates and files meet here."""

from lipnet.workflows.attacking import CertificateAttack
from lipnet.workflows.certification import certify_checkpoint
from lipnet.workflows.exportation import export_checkpoint
from lipnet.workflows.folders import RunFolder
from lipnet.workflows.multirun import SweepTable
from lipnet.workflows.verification import verify_certificates

__all__ = [
    "CertificateAttack",
    "RunFolder",
    "SweepTable",
    "certify_checkpoint",
    "export_checkpoint",
    "verify_certificates",
]
