"""How a stage and the processes that it starts come to an end: together, and with whoever started them."""

import ctypes
import multiprocessing
import os
import signal
import threading
from types import FrameType, TracebackType

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however that ends (Linux: prctl(2)).

    A stage that outlived a killed `dvc repro` would write beside the next one.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Interruptible:
    """Ends its block with KeyboardInterrupt after Ctrl-C, whatever error a library has made of that.

    safetensors' `get_tensor`, interrupted at the wrong moment, raises a ValueError about a shape. Where Ctrl-C is
    ignored, as in the background of a shell, it stays so.
    """

    def __init__(self) -> None:
        self._interrupted = False

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._interrupt)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._interrupted and isinstance(error, Exception):
            raise KeyboardInterrupt from error

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        signal.default_int_handler(number, frame)


def begin_worker() -> None:
    """What a worker does first: Ctrl-C, which reaches it too, shall end it without a word, so shall its parent's end.

    To the kernel its parent is the fork server, which lives as long as there are workers; it would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)
