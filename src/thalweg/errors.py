"""Errors a user can cause: what happened, what is allowed, what to do, in one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType
from typing import Any


class ThalwegError(Exception):
    """Anything thalweg raises on purpose."""


class UserError(ThalwegError, ValueError):
    """The user's mistake: the message is one clear sentence; the command line exits with 2."""


class UserCodeError(UserError):
    """The user's own code failed inside ours. frames: their part of the traceback as text, also from another process."""

    _frames: str | None = None

    @property
    def frames(self) -> str:
        """The traceback of what failed, without the frames of thalweg and of the packages under it."""
        if self._frames is None and self.__cause__ is not None:
            cause = self.__cause__
            text = traceback.TracebackException(type(cause), cause, _theirs(cause.__traceback__), compact=True)
            self._frames = "".join(text.format(chain=False)).rstrip()
        return self._frames or ""

    def __reduce__(self) -> Any:
        return _again, (type(self), str(self), self.frames)


def _again(kind: type[UserCodeError], message: str, frames: str) -> UserCodeError:
    error = kind(message)
    error._frames = frames
    return error


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of our files, torch's, joblib's and the import system's."""
    if trace is None:
        return None
    rest = _theirs(trace.tb_next)
    loaded = [sys.modules[name].__file__ for name in ("thalweg", "torch", "joblib") if name in sys.modules]
    ours = tuple(os.path.dirname(os.path.realpath(file)) + os.sep for file in loaded if file)
    name = trace.tb_frame.f_code.co_filename
    if name.startswith("<frozen") or os.path.realpath(name).startswith(ours):
        return rest
    return TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """An error for a name that is not among the known ones, with the nearest one offered.

    >>> str(unknown("optimizer", "adm", ["adam", "sgd"]))
    "no optimizer is called 'adm'; did you mean 'adam'? (known: adam, sgd)"
    """
    options = sorted(known)
    near = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    shown = ", ".join(options) if len(options) <= 24 else ", ".join(options[:24]) + ", ..."
    return UserError(f"no {kind} is called '{name}'{hint} (known: {shown})")
