"""How processes end, a stage with the process that started it, workers with their stage; and how they use memory."""

import ctypes
import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType

PR_SET_PDEATHSIG = 1  # linux/prctl.h
MAPPED = 2**25
"""Bytes from which malloc maps memory and gives it back at once."""
MALLOC_OPTIONS = {-8: 1, -3: MAPPED, -1: 2**29}
"""M_ARENA_MAX, M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of glibc's malloc.h: one heap for all threads keeps 512 MiB."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, for whatever reason (Linux: prctl(2)).

    A stage that outlived a killed `dvc repro` would write at the same time as the next one.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def keep_freed_memory() -> None:
    """Have glibc's malloc keep the memory of freed tensors below MAPPED for the next one.

    By default it gives most of it back, and every page of the next tensor costs a page fault.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # other C libraries have none
        for option, size in MALLOC_OPTIONS.items():
            mallopt(option, size)


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
    """Make this worker end silently on Ctrl-C, which reaches it too, and when the stage ends; it keeps freed memory.

    `die_with_parent` would not do: the kernel takes the fork server for the parent, and that lives as long as there are
    workers.
    """
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if stage := multiprocessing.parent_process():
        threading.Thread(target=_die_after, args=(stage,), daemon=True).start()


def _die_after(stage: BaseProcess) -> None:
    stage.join()
    os.kill(os.getpid(), signal.SIGKILL)
