"""Domains whose lines are generated: a question and its one right answer. No line is in two splits."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from itertools import product
from operator import add, sub

import numpy as np

from pipeline.statistics.sampling import generator
from pipeline.suites._characters import Texts, split_texts

LINES = {"train": 60_000, "validation": 10_000, "test": 20_000}
"""Lines of a split, drawn with replacement from its distinct ones."""
BELOW = 100
"""Numbers of arithmetic are smaller."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
FIRST, LAST = date(1900, 1, 1), date(2099, 12, 31)


def list_sums() -> Iterator[tuple[str, str]]:
    """Yield (line, operation) of arithmetic on numbers of two digits.

    a+b and a-b with b below 10, whose results have two digits too; a>b and a<b are the larger and the smaller number.
    """
    operations: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, ">": max, "<": min}
    for first, second in product(range(BELOW), repeat=2):
        for sign, operation in operations.items():
            if 0 <= (answer := operation(first, second)) < BELOW and (second < 10 or sign in "<>"):
                yield f"{first:02d}{sign}{second:02d}={answer:02d}", sign


def list_dates() -> Iterator[tuple[str, str]]:
    """Yield (line, kind) of dates: a day in ISO 8601 and in words."""
    for offset in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(offset)
        yield f"{day.isoformat()} is {day.day:02d} {MONTHS[day.month - 1]} {day.year}", "day"


DOMAINS: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {"arithmetic": list_sums, "dates": list_dates}


def generate_splits(domain: str, seed: int) -> dict[str, list[str]]:
    """Return the lines of every split in random order; kinds of lines are equally frequent."""
    kinds: dict[str, list[str]] = {}
    for line, kind in DOMAINS[domain]():
        kinds.setdefault(kind, []).append(line)
    parts = [split_texts(Texts(lines, lines), seed, f"{domain} {kind}") for kind, lines in kinds.items()]
    splits = {}
    for split, count in LINES.items():
        rng = np.random.default_rng(generator(seed, "lines", domain, split).initial_seed())
        chosen, places = rng.integers(len(parts), size=count), rng.random(count)
        lines = [part[split] for part in parts]
        splits[split] = [lines[kind][int(place * len(lines[kind]))] for kind, place in zip(chosen, places, strict=True)]
    return splits
