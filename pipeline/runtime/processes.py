"""How processes end: a stage with the process that started it, workers with their stage."""

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason (Linux: prctl(2)).

    A stage that outlived a killed `dvc repro` would write at the same time as the next one.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Interruptible:
    """A context that ends with KeyboardInterrupt after Ctrl-C, even if a library turned it into another error.

    safetensors' `get_tensor`, interrupted at the wrong moment, raises a ValueError about a shape. Where Ctrl-C is
    ignored, as in the background of a shell, it stays ignored.
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
    """Make this worker end silently on Ctrl-C, which reaches it too, and when the stage ends.

    `die_with_parent` would not do: the kernel takes the fork server for the parent, and that lives as long as there are
    workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if stage := multiprocessing.parent_process():
        threading.Thread(target=_die_after, args=(stage,), daemon=True).start()


def _die_after(stage: BaseProcess) -> None:
    stage.join()
    os.kill(os.getpid(), signal.SIGKILL)
