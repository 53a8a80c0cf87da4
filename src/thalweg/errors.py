"""Errors a user can cause: what happened, what is allowed, what to do, in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ThalwegError(Exception):
    """Anything thalweg raises on purpose."""


class UserError(ThalwegError, ValueError):
    """The user's mistake: the message is one clear sentence; the command line exits with 2."""


class UserCodeError(UserError):
    """The user's own code failed inside ours; the cause keeps its traceback, of which only their frames are shown."""


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
