"""The outcome of one check, as a line and as JSON."""

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SHOWN = 5
"""Differences that a line names; reports/audit.json has all of them."""


@dataclass(frozen=True)
class Finding:
    """What a check compared, how often, what was wrong, and what it could not see."""

    name: str
    what: str
    compared: int
    wrong: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    """What was not at hand or cannot be recomputed, and was therefore not checked."""

    @property
    def verdict(self) -> str:
        """ok, FAIL, or none where nothing was at hand to compare."""
        if self.wrong:
            return "FAIL"
        return "ok" if self.compared else "none"

    def line(self) -> str:
        """One line: verdict, name, how many of what; then what is wrong and what was not checked."""
        parts = [f"{self.verdict:<4}  {self.name:<24} {self.compared:,} {self.what}"]
        if self.wrong:
            parts.append(f"WRONG ({len(self.wrong):,}): {_few(self.wrong)}")
        if self.absent:
            parts.append(f"not checked: {_few(self.absent)}")
        return "; ".join(parts)

    def plain(self) -> dict[str, Any]:
        """The finding as JSON."""
        return {
            "verdict": self.verdict,
            "name": self.name,
            "what": self.what,
            "compared": self.compared,
            "wrong": [*self.wrong],
            "not checked": [*self.absent],
        }


@dataclass
class Tally:
    """Collects comparisons for one finding."""

    name: str
    what: str
    compared: int = 0
    wrong: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def expect(self, holds: bool, complaint: str) -> None:
        """Count one comparison; keep `complaint` if it does not hold."""
        self.compared += 1
        if not holds:
            self.wrong.append(complaint)

    def finding(self) -> Finding:
        """What was collected, without repetitions."""
        return Finding(self.name, self.what, self.compared, _distinct(self.wrong), _distinct(self.absent))


MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError)
"""What reading raises where a file is not of the form that it should have."""


def guarded(name: str, check: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    """The check's findings; one that says what went wrong if a file that it reads is not of the form it should have."""
    try:
        return check()
    except MALFORMED as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"a file cannot be made sense of ({type(error).__name__}: {error}, {where.name}); get it again"
        return [Finding(name, "files read", 1, (said,))]


def _few(texts: tuple[str, ...]) -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
