"""The error that is the user's to mend: a stage prints its message, without a traceback, and fails."""

from reprlib import Repr
from typing import Any

SHORT = Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxlist, SHORT.maxother = 3, 80, 8, 80
MOST = 200


class BenchmarkError(Exception):
    """Wrong input or a result that cannot be trusted; the message names the thing, what was expected, what to do."""


def shown(value: Any) -> str:
    """`value` as a message shows it: at most MOST characters, however large it is or how often it holds itself."""
    try:
        text = SHORT.repr(value)
    except ValueError:  # Python does not print it (sys.set_int_max_str_digits)
        return "a number of thousands of digits"
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
