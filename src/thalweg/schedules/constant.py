"""The base rate, unchanged."""

from thalweg.core.schedule import schedule


@schedule
def constant():
    return lambda t: 1.0
