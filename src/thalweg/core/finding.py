"""A finding: what is wrong with a training, the evidence, and what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Finding:
    """One cause of trouble.

    cause: its name on the shelf `causes`. title: what is the case, in a sentence. evidence: sentences with the numbers. remedy: a line of
    code or a command. confidence: from 0 to 1, that this is the case and matters. change: the remedy for machines, such as {"lr": 0.1};
    {} where only a person can carry it out. numbers: the evidence for machines, name -> value.
    """

    cause: str
    title: str
    evidence: str
    remedy: str
    confidence: float
    change: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.title} {self.evidence} Do: {self.remedy}"


@dataclass(frozen=True, repr=False)
class Findings(Sequence[Finding]):
    """What a diagnosis found, most important first; empty where nothing is wrong as far as was looked.

    measurements: name -> what was measured. seconds: that it took. skipped: name of a measurement -> why it is missing. looked: what was
    looked at, in words. notes: facts that a reader should know and that call for nothing.

    >>> found = Findings((Finding("rate_too_low", "The rate is small.", "It is 1e-9.", "lr=0.1", 0.9, {"lr": 0.1}),))
    >>> len(found), found.first.cause, found.first.change
    (1, 'rate_too_low', {'lr': 0.1})
    """

    found: tuple[Finding, ...]
    measurements: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: Mapping[str, str] = field(default_factory=dict)
    looked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __repr__(self) -> str:
        return f"Findings({', '.join(f'{one.cause} {one.confidence:.2f}' for one in self.found) or 'nothing wrong was found'})"

    def __str__(self) -> str:
        return self.text

    @property
    def first(self) -> Finding | None:
        """The most important finding, or None."""
        return self.found[0] if self.found else None

    def table(self) -> pd.DataFrame:
        """A row a finding: cause, confidence, title, evidence, remedy."""
        import pandas as pd

        columns = ["cause", "confidence", "title", "evidence", "remedy"]
        return pd.DataFrame([{name: getattr(one, name) for name in columns} for one in self.found], columns=columns)

    @property
    def text(self) -> str:
        """As a person reads it: numbered findings, each with its evidence and what to do."""
        parts = []
        for number, one in enumerate(self.found, 1):
            head = f"{number}. {one.title}  [{one.cause}, confidence {one.confidence:.0%}]"
            lines = [_wrapped(head, "   ").removeprefix("   "), _wrapped(one.evidence, "   "), _wrapped(f"Do: {one.remedy}", "   ")]
            parts.append("\n".join(lines))
        if not parts:
            seen = f" Looked at: {', '.join(self.looked)}." if self.looked else ""
            parts.append(_wrapped(f"Nothing wrong was found.{seen}", ""))
        parts += [_wrapped(note, "") for note in self.notes]
        if self.skipped:
            parts.append(_wrapped("Not measured: " + "; ".join(f"{name} ({why})" for name, why in self.skipped.items()) + ".", ""))
        return "\n\n".join(parts)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it, under the names of the attributes."""
        return {
            "findings": [asdict(one) for one in self.found], "seconds": self.seconds, "skipped": dict(self.skipped),
            "looked": list(self.looked), "notes": list(self.notes),
        }  # fmt: skip


def _wrapped(text: str, indent: str) -> str:
    return "\n".join(
        textwrap.fill(line, 110, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
