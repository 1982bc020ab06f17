"""Scores under two selections of kernels on one machine agree within what the benchmark promises.

Kernels differ between processors in the order of their sums, in fused multiplications and in their exponential
functions, and so in the last bits of every result. Environment variables select the kernels of an older processor.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import params, suites
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.steps.calibrate import Setting
from pipeline.steps.teach import compute_teacher_logits
from pipeline.studies.tasks import score_subset, score_subset_calibration
from tests.support import toy

pytestmark = pytest.mark.long

SUITE = "mini-8"
DATA_FREE = ("ties", "tsv_m")
"""A merge entry by entry, and with the decompositions of matrices."""
CALIBRATED = "samerging"
POOL, BATCH = 400, 4
"""Training images per task, and those of a step: a fifth and half of the defaults, in as many steps."""
SEED = 0
AVERAGE, TASK = 0.1, 0.3
"""The largest difference between two processors, in points of accuracy: of a method's average, of each task."""
PLAINEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
}
"""The kernels that every x86-64 processor has; a library ignores a variable that it does not know."""
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Threads that wait leave the core to the other selection."""
RUN = "import sys; from tests.test_kernels import report; report(*sys.argv[1:])"

Counts = dict[str, tuple[int, int]]
"""{task: (correct, total)}."""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default suite, prepared from its checkpoints, with the first training images of every task."""
    folder = tmp_path_factory.mktemp("suites") / SUITE
    family, definition = suites.load(SUITE)
    recipe = params.load([f"recipe.{SUITE}"], toy.ROOT / "params.yaml")[f"recipe.{SUITE}"]
    family.prepare(SUITE, definition, recipe, toy.ROOT / "data/checkpoints" / SUITE, folder)
    for path in folder.glob("*/train/*.npy"):
        store.write_array(path, np.load(path)[:POOL])
    return folder


def report(suite: str, teachers: str, threads: str) -> None:
    """Print the results of one selection of kernels: its name, a hash of the experts' logits, every method's counts."""
    set_torch_threads(int(threads))
    folder, split = Path(suite), "test"
    tasks = SuiteFolder(folder).suite.task_names
    digest = hashlib.sha256()
    for task in tasks:
        logits = compute_teacher_logits(folder, task, "train").numpy()
        store.write_array(Path(teachers) / f"{task}.npy", logits)
        digest.update(logits.tobytes())
    values = params.load([*(f"merge.{name}" for name in DATA_FREE), "samples_per_task"])
    counts = {name: score_subset(folder, name, values[f"merge.{name}"], tasks, split) for name in DATA_FREE}
    setting, samples = read_setting(folder, Path(teachers)), values["samples_per_task"]
    counts[CALIBRATED] = score_subset_calibration(setting, samples, SEED, split)
    correct = {name: {task: row[1:] for task, row in by_task.items()} for name, by_task in counts.items()}
    kernels = torch.backends.cpu.get_cpu_capability()
    print(json.dumps({"kernels": kernels, "bits": digest.hexdigest(), "counts": correct}))


def set_torch_threads(count: int) -> None:
    """Let torch split its sums among this many threads, although the pipeline requests one."""
    torch.set_num_threads(count)
    torch.set_num_threads = lambda _: None


def read_setting(suite: Path, teachers: Path) -> Setting:
    """Read the setting of SAMerging from params.yaml, with batches of BATCH."""
    keys = [*samerging.Params.model_fields]
    values = params.load([*keys, f"schedule.{SUITE}", "calibration_split", "precision"])
    parameters = samerging.Params(**{name: values[name] for name in keys})
    schedule = values[f"schedule.{SUITE}"].model_copy(update={"batch_size": BATCH})
    return Setting(suite, teachers, CALIBRATED, parameters, schedule, values["calibration_split"], values["precision"])


def start_report(suite: Path, teachers: Path, threads: int, variables: dict[str, str]) -> subprocess.Popen:
    """Start a process that reports under these variables."""
    unset = {name: value for name, value in os.environ.items() if name not in PLAINEST}
    command = [sys.executable, "-c", RUN, str(suite), str(teachers), str(threads)]
    return subprocess.Popen(command, cwd=toy.ROOT, env=unset | WAITING | variables, stdout=subprocess.PIPE, text=True)


def accuracies(counts: Counts) -> dict[str, float]:
    """The accuracy on every task, in per cent."""
    return {task: 100 * correct / total for task, (correct, total) in counts.items()}


def test_scores_hardly_depend_on_the_kernels(suite: Path, tmp_path: Path):
    processes = [start_report(suite, tmp_path / "own", 1, {}), start_report(suite, tmp_path / "plainest", 2, PLAINEST)]
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    native, plainest = map(json.loads, printed)
    if native["kernels"] != plainest["kernels"]:
        assert native["bits"] != plainest["bits"], "both selections computed the same bits: nothing was compared"
    for method, counts in native["counts"].items():
        here, there = accuracies(counts), accuracies(plainest["counts"][method])
        for task, accuracy in here.items():
            assert abs(accuracy - there[task]) <= TASK, f"{method} on {task}"
        assert abs(sum(here.values()) - sum(there.values())) <= AVERAGE * len(here), method
