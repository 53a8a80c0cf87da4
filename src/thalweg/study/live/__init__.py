"""The live page: the report of a study that is being trained, served to this machine alone, and kept up to date by itself."""

from thalweg.study.live.server import Live

__all__ = ["Live"]
