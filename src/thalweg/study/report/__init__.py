"""The report: one offline HTML page of a study, made from `Results` alone."""

from thalweg.study.report.page import render, write

__all__ = ["render", "write"]
