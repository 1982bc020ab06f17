"""A stage that is killed, or has no room, at one moment after another: python -m tests.faults.forks <fault> <stage>.

Run at the root of a finished checkout. What a stage does to the disk raises audit events (PEP 578); each attempt is a
fork that hears them and, from the n-th on, ends itself or refuses them. Prints how many moments were tried.
"""

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.stages import STAGES, age, content, outputs, restore, whole

LAST, SPREAD = 5, 2
"""Moments tried: the last ones, when outputs move into place, and some of those before."""
GROWS, SHRINKS = {"os.mkdir"}, {"os.rename", "os.remove", "os.rmdir", "os.chmod"}
Hook = Callable[[str, tuple[Any, ...]], None]


def changes(event: str, args: tuple[Any, ...], *, growing: bool) -> bool:
    """Whether an audit event is a change of the disk; `growing`: one that a full disk refuses."""
    if event == "open":
        path, _, flags = args
        return bool(flags & (os.O_WRONLY | os.O_RDWR)) and not str(path).startswith(("/dev", "/proc"))
    if event in GROWS:
        return not (growing and Path(args[0]).is_dir())  # an existing folder needs no room
    return not growing and event in SHRINKS


def kill_hook(moment: int, counted: list[int]) -> Hook:
    """End this process before its n-th change."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if changes(event, args, growing=False):
            counted[0] += 1
            if counted[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def full_hook(moment: int, counted: list[int]) -> Hook:
    """Refuse the n-th change and all later ones for lack of room."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if changes(event, args, growing=True):
            counted[0] += 1
            if counted[0] >= moment:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return hook


FAULTS = {"kill": kill_hook, "full": full_hook}


def run_child(name: str, fault: str, moment: int, counts: int, errors: int) -> NoReturn:
    """Run the stage under the fault and end; write the number of its changes and its messages to the files."""
    os.dup2(errors, 2)
    stage, counted = import_module(f"stages.{name}"), [0]
    sys.argv = [name, *STAGES[name]]
    sys.addaudithook(FAULTS[fault](moment, counted))
    try:
        stage.STAGE.main(stage.run)
    finally:
        os.write(counts, str(counted[0]).encode())
    sys.exit()


def attempt(name: str, fault: str, moment: int) -> tuple[int, int, str]:
    """(exit status, changes made, messages) of one run of the stage; moment 0: undisturbed."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as counts:
        pid = os.fork()
        if pid == 0:
            run_child(name, fault, moment or sys.maxsize, counts.fileno(), errors.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [file.seek(0) or file.read().decode(errors="replace") for file in (counts, errors)]
        return status, int(texts[0] or 0), texts[1]


def main(fault: str, name: str) -> None:
    """Try moment after moment; raise AssertionError at the first that is not survived."""
    paths = outputs(name)  # imports the stage for all forks, as the next line does open_clip
    import_module("open_clip")
    new = [content(path) for path in paths]
    assert all(new)
    status, total, output = attempt(name, fault, 0)
    assert status == 0, output
    assert [content(path) for path in paths] == new
    first = range(1, total - LAST + 1)
    moments = [*first[:: max(1, len(first) // SPREAD)], *range(max(1, total - LAST + 1), total + 1)]
    hit = 0
    for moment in moments:
        for path in paths:
            age(path)
        status, made, output = attempt(name, fault, moment)
        if status == 0 and made < moment:  # a library found its own cache warm: fewer changes than counted
            assert [content(path) for path in paths] == new
            continue
        hit += 1
        where = f"{name}, {fault} at {moment} of {total}: exit {status}: {output}"
        if fault == "kill":
            assert status == -signal.SIGKILL, where
        else:
            assert status == 1, where
            assert "Traceback" not in output, where
            assert "cannot be written ([Errno 28] No space left on device" in output, where
        for path, expected in zip(paths, new, strict=True):
            assert whole(path, expected), where
            restore(path, expected)
    status, _, output = attempt(name, fault, 0)
    assert status == 0, output
    assert [content(path) for path in paths] == new
    assert not [*Path("data/.partial").iterdir()]
    print(hit)


if __name__ == "__main__":
    main(*sys.argv[1:])
