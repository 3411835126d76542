"""What train.py and certify.py are made of: the places where configuration, data, models and certificates meet."""

from lipnet.workflows.certification import certify_checkpoint
from lipnet.workflows.errors import clear_errors
from lipnet.workflows.folders import run_folder
from lipnet.workflows.multirun import SweepTable
from lipnet.workflows.training import best_checkpoint, make_data, make_module, make_trainer, resume_path

__all__ = [
    "SweepTable",
    "best_checkpoint",
    "certify_checkpoint",
    "clear_errors",
    "make_data",
    "make_module",
    "make_trainer",
    "resume_path",
    "run_folder",
]
