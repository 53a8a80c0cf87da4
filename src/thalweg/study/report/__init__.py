"""The report: one offline HTML page of a study, or of several side by side, made from `Results` alone."""

from thalweg.study.report.page import render, write
from thalweg.study.report.side import open_beside, render_beside, write_beside

__all__ = ["open_beside", "render", "render_beside", "write", "write_beside"]
