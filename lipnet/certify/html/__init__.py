"""Reports to look at: one HTML file for a certification, or for several of them side by side."""

from lipnet.certify.html.page import COMPARISON, REPORT, write_comparison, write_report
from lipnet.certify.html.pictures import AttackedImages
from lipnet.certify.html.runs import Run, read_run

__all__ = ["COMPARISON", "REPORT", "AttackedImages", "Run", "read_run", "write_comparison", "write_report"]
