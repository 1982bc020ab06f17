"""The outcome of one check, as a line and as JSON."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

SHOWN = 5
"""Differences that a line names; reports/audit.json has all of them."""
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError)
"""What reading raises where a file is not of the form that it should have."""


@dataclass
class Finding:
    """What a check compared, how often, what was wrong, and what it could not see."""

    name: str
    what: str
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    """What is missing or cannot be recomputed, and was therefore not checked."""

    def expect(self, holds: bool, complaint: str) -> None:
        """Count one comparison; keep `complaint` if it does not hold."""
        self.compared += 1
        if not holds:
            self.complain(complaint)

    def complain(self, complaint: str) -> None:
        """Keep a complaint, once, that is no comparison of its own."""
        if complaint not in self.wrong:
            self.wrong.append(complaint)

    def skip(self, *names: str) -> Self:
        """Note what could not be checked; return the finding."""
        self.absent += [name for name in dict.fromkeys(names) if name not in self.absent]
        return self

    @property
    def verdict(self) -> str:
        """ok, FAIL, or none where there was nothing to compare."""
        if self.wrong:
            return "FAIL"
        return "ok" if self.compared else "none"

    def line(self) -> str:
        """Return one line: verdict, name, how many of what; then what is wrong and what was not checked."""
        parts = [f"{self.verdict:<4}  {self.name:<24} {self.compared:,} {self.what}"]
        if self.wrong:
            parts.append(f"WRONG ({len(self.wrong):,}): {_first(self.wrong)}")
        if self.absent:
            parts.append(f"not checked: {_first(self.absent)}")
        return "; ".join(parts)

    def plain(self) -> dict[str, Any]:
        """Return the finding as JSON."""
        return {
            "verdict": self.verdict,
            "name": self.name,
            "what": self.what,
            "compared": self.compared,
            "wrong": self.wrong,
            "not checked": self.absent,
        }


def run_check(name: str, check: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """Return the check's findings, or one that says which step failed on a file of another form than it should have."""
    try:
        return check()
    except MALFORMED as error:
        step = traceback.extract_tb(error.__traceback__)[-1].name
        complaint = f"a file cannot be made sense of ({type(error).__name__}: {error}, {step}); get it again"
        return [Finding(name, "files read", 1, [complaint])]


def first_difference(left: str | bytes, right: str | bytes) -> int:
    """Return the place where two texts part; the length of the shorter one if it begins the other."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
