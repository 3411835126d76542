"""Building blocks of the three commands: configuration, data, models, certificates and files meet here."""

from lipnet.workflows.attacking import CertificateAttack
from lipnet.workflows.certification import certify_checkpoint
from lipnet.workflows.devices import devices_of_command
from lipnet.workflows.errors import clear_errors
from lipnet.workflows.exportation import export_checkpoint
from lipnet.workflows.folders import RunFolder, run_folder
from lipnet.workflows.multirun import SweepTable
from lipnet.workflows.training import (
    best_checkpoint,
    check_certification,
    checkpoint_to_certify,
    end_distributed,
    log_certificates,
    log_configuration,
    make_data,
    make_module,
    make_trainer,
    resume_path,
)
from lipnet.workflows.verification import Verification, verify_certificates

__all__ = [
    "CertificateAttack",
    "RunFolder",
    "SweepTable",
    "Verification",
    "best_checkpoint",
    "certify_checkpoint",
    "check_certification",
    "checkpoint_to_certify",
    "clear_errors",
    "devices_of_command",
    "end_distributed",
    "export_checkpoint",
    "log_certificates",
    "log_configuration",
    "make_data",
    "make_module",
    "make_trainer",
    "resume_path",
    "run_folder",
    "verify_certificates",
]
