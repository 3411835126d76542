"""What the entry points are made of: the places where configuration, data, models, certificates and files meet."""

from lipnet.workflows.attacking import CertificateAttack
from lipnet.workflows.certification import certify_checkpoint
from lipnet.workflows.devices import devices_of_command
from lipnet.workflows.errors import clear_errors
from lipnet.workflows.exportation import export_checkpoint
from lipnet.workflows.folders import run_folder
from lipnet.workflows.multirun import SweepTable
from lipnet.workflows.training import best_checkpoint, make_data, make_module, make_trainer, resume_path
from lipnet.workflows.verification import Verification, verify_certificates

__all__ = [
    "CertificateAttack",
    "SweepTable",
    "Verification",
    "best_checkpoint",
    "certify_checkpoint",
    "clear_errors",
    "devices_of_command",
    "export_checkpoint",
    "make_data",
    "make_module",
    "make_trainer",
    "resume_path",
    "run_folder",
    "verify_certificates",
]
