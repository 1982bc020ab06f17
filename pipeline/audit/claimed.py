"""What a printed text should say, and how it falls short of that: values, means with deviations, paired differences.

Every expectation has a function `problem(text, drawn)`: empty where the text is right, else what it should be. `drawn`
has the intervals of every difference for which they are asked: see `pipeline.audit.resampled`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.audit.printed import agrees, bare

NUMBER = r"[−+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?"
EDGES = re.compile(rf"\[({NUMBER}), ({NUMBER})\]")
BETTER = re.compile(r"better on (\d+) and worse on (\d+) of (\d+) tasks?")
THINGS = re.compile(r"(\d[\d,]*) (?:test |bootstrap )?(seed|task|image|subset|solution|draw|replicate)s?\b")
ZERO = 1e-5
"""Points below which a difference is rounding of floating-point numbers."""


@dataclass(frozen=True, eq=False)
class Gain:
    """A paired difference: its mean, the interval on these tasks (over tasks where there are no answers), its words."""

    values: np.ndarray
    """[S, T], in points."""
    answers: tuple[np.ndarray, ...] | None = None
    """Of every task, the difference of each image [S, n], in [-1, 1]; None where images are not told apart."""
    significant: int = 0
    """Digits of the mean; 0: as many as are shown."""
    axes: tuple[int, ...] = ()
    """Where two draws are crossed, seeds of two methods or replicates and seeds: how many of each, S in all."""

    def problem(self, text: str, drawn: "Draws") -> str:
        """The mean, each interval, which of them excludes zero, and on how many tasks it is better or worse."""
        head, found = re.match(NUMBER, text), [*EDGES.finditer(text)]
        if head is None or not agrees(head[0], float(self.values.mean()), self.significant):
            return f"its rows give {self.values.mean():+.6g}"
        if re.search(r"\d", BETTER.sub("", EDGES.sub("", text[head.end() :])).replace("95 %", "")):
            return "it has a number that cannot be read"
        if self.values.size == 1:
            return "one run has no interval" if found else ""
        if not found:
            return "it has no interval"
        complaints = [_interval(one[0], self, drawn, like=place > 0) for place, one in enumerate(found)]
        if said := re.search(r"(in|ex)cludes zero", text):
            complaints.append(Side(self, said[1] == "ex").problem(text, drawn))
        if said := BETTER.search(text):
            complaints.append(Won(self).problem(f"{said[1]} : {said[2]}", drawn))
            complaints += ["it has other tasks"] * (int(said[3]) != self.values.shape[1])
        return next(filter(None, complaints), "")


@dataclass(frozen=True)
class Drawn:
    """What a difference may be by chance: 95 % intervals, in points."""

    like: tuple[float, float]
    """Tasks and seeds are drawn."""
    these: tuple[float, float] | None = None
    """Images and seeds are drawn."""
    won: tuple[int, int] | None = None
    """Tasks whose own such interval lies above and below zero."""

    @property
    def main(self) -> tuple[float, float]:
        """That on these tasks, where there are answers."""
        return self.these or self.like

    @property
    def excludes(self) -> bool:
        """Whether the main interval excludes zero."""
        return self.main[0] > 0 or self.main[1] < 0


Draws = Mapping[Gain, Drawn]


class Expected(Protocol):
    """What a text should say."""

    def problem(self, text: str, drawn: Draws) -> str:
        """Empty, or what is wrong."""


@dataclass(frozen=True)
class Never:
    """A text that nothing makes right."""

    why: str

    def problem(self, _: str, __: Draws) -> str:
        """Why."""
        return self.why


@dataclass(frozen=True)
class Words:
    """This very text, but for the commas of thousands."""

    text: str

    def problem(self, text: str, _: Draws) -> str:
        """Empty, or what it should be."""
        return "" if text.replace(",", "") == self.text.replace(",", "") else f"it should be “{self.text}”"


@dataclass(frozen=True)
class Number:
    """A number, to the digits that it shows or to significant ones."""

    value: float
    significant: int = 0

    def problem(self, text: str, _: Draws) -> str:
        """Empty, or what it should be."""
        return "" if agrees(text, self.value, self.significant) else f"its rows give {self.value:.6g}"


@dataclass(frozen=True, eq=False)
class Spread:
    """Mean ± sample standard deviation over runs [S]; the mean alone where runs do not differ."""

    values: np.ndarray
    significant: tuple[int, int] = (0, 0)

    def problem(self, text: str, _: Draws) -> str:
        """Empty, or what it should be."""
        mean, _, deviation = (part.strip() for part in text.partition("±"))
        own = float(self.values.std(ddof=1)) if len(self.values) > 1 else math.nan
        alone = not deviation and not own > ZERO
        right = agrees(mean, float(self.values.mean()), self.significant[0])
        if right and (alone or agrees(deviation, own, self.significant[1])):
            return ""
        return f"its rows give {self.values.mean():.6g} ± {own:.6g}"


@dataclass(frozen=True)
class Like:
    """The interval on tasks like these of a difference, alone."""

    gain: Gain

    def problem(self, text: str, drawn: Draws) -> str:
        """Empty, or what it should be."""
        return _interval(text, self.gain, drawn, like=True)


@dataclass(frozen=True)
class Won:
    """`w : l`, how many tasks have an interval of their own above and below zero."""

    gain: Gain

    def problem(self, text: str, drawn: Draws) -> str:
        """Empty, or what it should be."""
        won = drawn[self.gain].won
        if won is None:
            return "there are no answers to single images"
        return "" if text == f"{won[0]} : {won[1]}" else f"its answers give {won[0]} : {won[1]}"


@dataclass(frozen=True)
class Excluding:
    """How many of some differences have an interval that excludes zero."""

    gains: Sequence[Gain]

    def problem(self, text: str, drawn: Draws) -> str:
        """Empty, or what it should be."""
        return Number(sum(drawn[gain].excludes for gain in self.gains)).problem(text, drawn)


@dataclass(frozen=True)
class Jointly:
    """How many groups of differences have intervals that all exclude zero."""

    groups: Sequence[Sequence[Gain]]

    def problem(self, text: str, drawn: Draws) -> str:
        """Empty, or what it should be."""
        return Number(sum(all(drawn[gain].excludes for gain in group) for group in self.groups)).problem(text, drawn)


@dataclass(frozen=True)
class Side:
    """A text by which the interval of a difference excludes zero, or includes it."""

    gain: Gain
    excludes: bool

    def problem(self, _: str, drawn: Draws) -> str:
        """Empty, or what the interval does."""
        own = drawn[self.gain].excludes
        return "" if own == self.excludes else f"its interval {'excludes' if own else 'includes'} zero"


@dataclass(frozen=True)
class Counted:
    """A text in which these things, and no others, are counted."""

    things: Mapping[str, int]
    """{"seed": 3}."""

    def problem(self, text: str, _: Draws) -> str:
        """Empty, or the number of what is counted wrongly."""
        found = [(int(bare(number)), thing) for number, thing in THINGS.findall(text)]
        wrong = [thing for number, thing in found if self.things.get(thing) != number]
        named = ", ".join(f"{self.things.get(thing, 'none')} of {thing}s" for thing in wrong)
        return (f"its rows have {named}" if wrong else "") if found else "it counts nothing"


def gains(expected: Expected) -> tuple[Gain, ...]:
    """The differences whose draws an expectation needs."""
    if isinstance(expected, Gain):
        return (expected,)
    if isinstance(expected, Like | Won | Side):
        return (expected.gain,)
    if isinstance(expected, Jointly):
        return tuple(gain for group in expected.groups for gain in group)
    return (*expected.gains,) if isinstance(expected, Excluding) else ()


def _interval(text: str, gain: Gain, drawn: Draws, like: bool) -> str:
    """Empty, or what the interval should be."""
    found, own = EDGES.fullmatch(text), drawn[gain].like if like else drawn[gain].main
    if found and all(agrees(end, value, gain.significant) for end, value in zip(found.groups(), own, strict=True)):
        return ""
    return f"its rows give the interval [{own[0]:+.6g}, {own[1]:+.6g}]"
