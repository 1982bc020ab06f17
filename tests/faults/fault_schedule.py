"""Results that are the same in every bit under another schedule, and results that are only close, with figures.

The same: any number of processes, any order of the stages. Close: bfloat16 against float32. Another number of threads
inside one process may change sums; the stages fix it at one.
"""

import subprocess
import sys

import numpy as np
import pytest

from pipeline.runtime import store
from tests.faults.conftest import Say, Tally
from tests.faults.stages import STAGES, content, outputs
from tests.test_repro import Checkout, checkout

THREADS = """
import sys
import numpy as np, torch
from pathlib import Path
from pipeline.models.suite import SuiteFolder
from pipeline.steps.teach import compute_teacher_logits

set_threads = torch.set_num_threads
torch.set_num_threads = lambda count: set_threads(int(sys.argv[2]))
folder = Path("data/suites") / sys.argv[1]
for task in SuiteFolder(folder).suite.task_names:
    np.save(f"{task}-{sys.argv[2]}.npy", compute_teacher_logits(folder, task, "train").numpy())
    print(task)
"""


@pytest.mark.parametrize("stage", [name for name in STAGES if not name.startswith(("collect", "render"))])
def test_any_number_of_processes_gives_the_same_bytes(copied: Checkout, tally: Tally, stage: str):
    new = [content(path) for path in outputs(stage, copied.root)]
    with tally("another number of processes: the same bytes"):  # kills and full disks are tried with one
        run = ("env", "SAMERGING_WORKERS=5", sys.executable, "-B", "-m", f"stages.{stage}")
        done = copied.call(*run, *STAGES[stage])
        assert done.returncode == 0, done.stdout
        assert [content(path) for path in outputs(stage, copied.root)] == new


def test_any_order_of_the_stages_gives_the_same_bytes(finished: Checkout, tmp_path, tally: Tally):
    made = checkout(tmp_path / "repo", SAMERGING_WORKERS="2")
    backwards = sorted(finished.lock(), reverse=True)
    with tally("stages in another order: the same bytes"):
        for stage in [name for name in backwards if not name.startswith(("collect", "render"))]:
            made.ran("repro", stage)
        made.ran("repro")
        assert made.hashes() == finished.hashes()


def test_how_close_bfloat16_is(finished: Checkout, copied: Checkout, say: Say):
    copied.set("precision=bfloat16")
    done = copied.call(sys.executable, "-B", "-m", "stages.samerging", "nano-3")
    assert done.returncode == 0, done.stdout
    name = "data/merges/nano-3/samerging/coefficients.safetensors"
    exact, rounded = (store.TensorFile(made.root / name)["coefficients"] for made in (finished, copied))
    difference = (exact - rounded).abs().max().item()
    say(f"bfloat16 against float32: coefficients differ by at most {difference:.2g} of {exact.abs().max().item():.2g}")
    assert 0 < difference < 0.1


def test_how_close_another_number_of_threads_is(copied: Checkout, say: Say):
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-B", "-c", THREADS, "nano-3", threads],
            cwd=copied.root,
            env=copied.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for task in done.stdout.split():
        single, double = (np.load(copied.root / f"{task}-{threads}.npy") for threads in ("1", "2"))
        assert (single == np.load(copied.root / f"data/teachers/nano-3/{task}.npy")).all()
        difference = float(np.abs(single - double).max())
        say(f"2 threads against 1: logits of {task} differ by at most {difference:.2g} of {np.abs(single).max():.3g}")
        assert difference < 1e-3 * np.abs(single).max()
