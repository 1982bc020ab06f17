"""The error that is the user's to mend: a stage prints its message, without a traceback, and fails."""


class BenchmarkError(Exception):
    """Wrong input or a result that cannot be trusted; the message names the thing, what was expected, what to do."""
