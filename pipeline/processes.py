"""How a stage and the processes that it starts come to an end: together, and with whoever started them."""

import ctypes
import multiprocessing
import os
import signal
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, however that ends (Linux: prctl(2)).

    A stage that outlived a killed `dvc repro` would write beside the next one.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def begin_worker() -> None:
    """What a worker does first: Ctrl-C, which reaches it too, shall end it without a word, so shall its parent's end.

    To the kernel its parent is the fork server, which lives as long as there are workers; it would wait for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)
