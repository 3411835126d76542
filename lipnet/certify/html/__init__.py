"""Reports in HTML: one file for a certification, or one that compares several."""

from lipnet.certify.files import REPORT
from lipnet.certify.html.page import COMPARISON, write_comparison, write_report
from lipnet.certify.html.pictures import AttackedImages
from lipnet.certify.html.runs import Run, read_run

__all__ = ["COMPARISON", "REPORT", "AttackedImages", "Run", "read_run", "write_comparison", "write_report"]
