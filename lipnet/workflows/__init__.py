"""Building blocks of the three commands: configuration, data, models, certificates and files meet here.

The names are imported at first use, because Lightning takes seconds to import and ``--help`` does not need it.
"""

from typing import TYPE_CHECKING

from lipnet.lazy import lazy_attributes

if TYPE_CHECKING:
    from lipnet.workflows.attacking import CertificateAttack
    from lipnet.workflows.certification import certify_checkpoint
    from lipnet.workflows.export import export_checkpoint
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

__getattr__ = lazy_attributes(
    {
        "CertificateAttack": "lipnet.workflows.attacking",
        "RunFolder": "lipnet.workflows.folders",
        "SweepTable": "lipnet.workflows.multirun",
        "certify_checkpoint": "lipnet.workflows.certification",
        "export_checkpoint": "lipnet.workflows.export",
        "verify_certificates": "lipnet.workflows.verification",
    }
)
