"""The HTML report."""

from qedistill.html.page import build

__all__ = ["build"]
