"""The error that a user can fix: a stage prints its message, without a traceback, and fails."""

from reprlib import Repr
from typing import Any

SHORT = Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxlist, SHORT.maxother = 3, 80, 8, 80
MOST = 200


class BenchmarkError(Exception):
    """Wrong input, or a result that cannot be trusted.

    The message names the thing, its value, what was expected and what to do.
    """


def abbreviate(value: Any) -> str:
    """Return `value` as text for a message: at most MOST characters, however large or self-referential it is."""
    try:
        text = SHORT.repr(value)
    except ValueError:  # an integer with more digits than sys.set_int_max_str_digits allows
        return "a number of thousands of digits"
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
