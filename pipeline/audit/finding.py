"""The outcome of one check, as a line and as JSON."""

import math
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Self, TypeAlias

SHOWN = 5
"""Differences that a line names; reports/audit.json has all of them."""
MALFORMED = (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError)
"""What reading raises where a file is not of the form that it should have."""

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
Text: TypeAlias = Sequence[Any]
"""What a text must have, in lists of any depth: words, numbers, (number, how many significant digits are printed)."""


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

    def expect_number(self, where: str, text: str, value: float, digits: int | None = None) -> None:
        """Count the comparison of printed digits with a number, see `agrees`."""
        self.expect(agrees(text, value, digits), f"{where} is {text or 'missing'}, the evidence gives {value:.10g}")

    def expect_text(self, where: str, text: str, parts: Text) -> None:
        """Count every part of a text: its numbers are these and no others, and it has these words in this order."""
        numbers, values, place = NUMBER.findall(text.replace(",", "")), list[tuple[float, int | None]](), 0
        for part in _flatten(parts):
            if isinstance(part, str):
                values += [(float(number), None) for number in NUMBER.findall(part)]
                after = text.lower().find(part.lower(), place)
                self.expect(after >= 0, f"{where}: no “{part}” in “{text[place:]}”")
                place = after + len(part) if after >= 0 else place
            else:
                values.append(part if isinstance(part, tuple) else (part, None))
        self.expect(len(numbers) == len(values), f"{where}: {len(numbers)} numbers, the evidence gives {len(values)}")
        for index, (number, (value, digits)) in enumerate(zip(numbers, values, strict=False), start=1):
            self.expect_number(f"{where}, number {index}", number, value, digits)

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


def agrees(text: str, value: float, digits: int | None = None) -> bool:
    """Return whether a text is a number to half a unit of its last decimal or significant digit; empty: undefined."""
    if not text or not math.isfinite(value):
        return not text and not math.isfinite(value)
    if not NUMBER.fullmatch(text):
        return False
    last = int(Decimal(text).as_tuple().exponent)
    if digits is not None:
        last = math.floor(math.log10(abs(value) or 1)) + 1 - digits
    return abs(float(text) - value) <= 0.5 * 10.0**last + 1e-9


def first_difference(left: str | bytes, right: str | bytes) -> int:
    """Return the place where two texts part; the length of the shorter one if it begins the other."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(left), len(right)))


def _flatten(parts: Text) -> Iterator[Any]:
    for part in parts:
        yield from _flatten(part) if isinstance(part, list) else (part,)


def _first(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN:,} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more
