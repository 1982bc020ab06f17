"""`dvc repro` of the tests' suite in a fresh checkout; takes minutes.

One checkout is run once and shared; every test leaves it as it found it. `small`, where the same stages ran in one
process, shows that the results are the same bytes elsewhere and with another number of processes.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from tests.support import toy

pytestmark = pytest.mark.slow

SMALL = (
    "suites=[nano-3]",
    "seeds=[0,1]",
    "samples_per_task=8",
    "studies=[ablation,efficiency]",
    "study.efficiency.samples=[1,4]",
    "study.replicates.seeds=[1,2]",
    "study.conflict.degrees=[0.0,1.0]",
    "methods.merge=[zeroshot,individual,ties]",
    "methods.calibrate=[distillation]",
    "methods.svc=[ties]",
    "methods.rescale=[ties,ties-svc]",
    "methods.surgery=[samerging]",
    "rescale.samples=4",
    "rescale.factors=[0.5,1.0,2.0]",
    "surgery.steps=3",
    "diagnose.samples=4",
    "diagnose.images=4",
    "diagnose.subsets=3",
    "schedule.nano-3.steps=3",
    "recipe.nano-3.pretrain_steps=4",
    "recipe.nano-3.expert_steps=4",
    "report.dpi=50",
)
DATA_FREE = ("zeroshot", "individual", "ties")
CALIBRATED = ("distillation", "samerging")
REFINED = {"ties-svc": 0, "ties-rescaled": 4, "ties-svc-rescaled": 4, "surgery-samerging": 8}
USED = {**dict.fromkeys(DATA_FREE, 0), **dict.fromkeys(CALIBRATED, 8), **REFINED}
"""Every method that is scored, and its unlabelled images per task."""
WRONG = (
    (
        ("rho=-1", "+rhoo=1.0"),
        (
            "rho = -1: input should be greater than or equal to 0",
            "rhoo = 1.0: no such parameter; did you mean 'rho'?",
        ),
    ),
    (
        ("suites=[nano3]", "every_method.merge=[tie]"),
        (
            "suites: 'nano3': no such suite; did you mean 'nano-3'?",
            "every_method.merge: 'tie': no such method; did you mean 'ties'?",
        ),
    ),
)
"""Changes of params.yaml and what each of them is told."""
SAMERGING = {
    "check",
    "samerging@nano-3",
    "evaluate-samerging@nano-3",
    "surgery@nano-3-samerging",
    "evaluate-surgery@nano-3-samerging",
    "collect@nano-3",
    "render",
}


@dataclass(frozen=True)
class Checkout:
    """A copy of the repository under Git and DVC."""

    root: Path
    environment: dict[str, str]

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command at the root; its stdout includes its errors."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def ran(self, *arguments: str) -> set[str]:
        """Call DVC, which must succeed; return the stages that it ran."""
        done = self.call("dvc", *arguments)
        assert done.returncode == 0, done.stdout
        return set(re.findall(r"Running stage '([^']+)'", done.stdout))

    def set(self, *overrides: str) -> None:
        """Set values in params.yaml."""
        apply_overrides(str(self.root / "params.yaml"), list(overrides))

    def lock(self) -> dict[str, dict]:
        """The stages of dvc.lock."""
        return YAML(typ="safe").load(self.root / "dvc.lock")["stages"]

    def hashes(self) -> dict[str, str]:
        """{path: hash} of every result, except run records and reports on them, which hold times and hardware."""
        outs = (out for stage in self.lock().values() for out in stage.get("outs", ()))
        measured = ("data/runs/", "reports/index.html", "reports/evidence/")
        return {out["path"]: out["md5"] for out in outs if not out["path"].startswith(measured)}

    def contents(self, folder: str) -> dict[str, bytes]:
        """{path: content} of the files below a folder."""
        files = (path for path in sorted((self.root / folder).rglob("*")) if path.is_file())
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    def rows(self, path: str) -> list[dict[str, str]]:
        """The rows of a CSV file."""
        with (self.root / path).open(newline="") as file:
            return [*csv.DictReader(file)]


def surroundings(root: Path) -> dict[str, str]:
    """The environment of commands in a checkout: its own home, the CPU, nothing inherited that would change a run."""
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(root.parent)}
    identity = {
        f"GIT_{role}_{what}": "test@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    settings = {"DVC_SITE_CACHE_DIR": str(root.parent / "site"), "DVC_NO_ANALYTICS": "1", "SAMERGING_DEVICE": "cpu"}
    prefixes = ("GIT_", "PYTHON", "SAMERGING_")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    return {**inherited, **paths, **identity, **settings}


def checkout(root: Path, **environment: str) -> Checkout:
    """Make a fresh repository of the files that Git knows or would add, with small parameters and no results."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=toy.ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    toy.copy_code(root, [name for name in names if not name.endswith("dvc.lock") and (toy.ROOT / name).is_file()])
    made = Checkout(root, {**surroundings(root), **environment})
    made.set(*SMALL)
    for command in (("git", "init", "-q"), ("git", "add", "-A"), ("git", "commit", "-q", "-m", "start")):
        done = made.call(*command)
        assert done.returncode == 0, done.stdout
    return made


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which `dvc repro` has run, committed."""
    return finish(tmp_path_factory.mktemp("first") / "repo")


def finish(root: Path) -> Checkout:
    """Make a checkout, run it and commit what it made."""
    made = checkout(root)
    assert made.ran("repro") == set(made.lock())
    for command in (("git", "add", "-A"), ("git", "commit", "-q", "-m", "results")):
        done = made.call(*command)
        assert done.returncode == 0, done.stdout
    return made


def test_every_method_is_scored_on_every_image(finished: Checkout):
    suite = json.loads((finished.root / "data/suites/nano-3/suite.json").read_text())
    tasks = [task["name"] for task in suite["tasks"]]
    labels = {task: np.load(finished.root / f"data/suites/nano-3/labels/test/{task}.npy") for task in tasks}
    scores = finished.root / "data/scores/nano-3"
    assert {path.stem for path in scores.iterdir()} == {*USED}
    for kind in ("costs", "answers"):
        assert {path.stem for path in (finished.root / "data" / kind / "nano-3").iterdir()} == {*USED}
    for method, used in USED.items():
        rows = finished.rows(f"data/scores/nano-3/{method}.csv")
        seeds = ["0", "1"] if used else [""]
        assert [(row["seed"], row["task"]) for row in rows] == [(seed, task) for seed in seeds for task in tasks]
        for row in rows:
            assert (row["suite"], row["method"]) == ("nano-3", method)
            assert int(row["total"]) == len(labels[row["task"]])
            assert 0 <= int(row["correct"]) <= int(row["total"])
            assert int(row["samples"]) == used


def test_the_report_is_written_for_the_suite_that_ran(finished: Checkout):
    written = finished.contents("reports")
    assert {"reports/index.html", "reports/metrics.json", "reports/tables/nano-3.md"} <= written.keys()
    table = written["reports/tables/nano-3.md"].decode()
    assert all(title in table for title in ("Zero-shot", "Individual experts", "TIES", "SAMerging"))
    kept = ("methods", "text", "lora", "language", "studies", "evidence")
    others = tuple(f"reports/{name}/" for name in kept)  # not of this run
    assert not [path for path in written if "mini-8" in path and not path.startswith(others)]
    json.loads(written["reports/metrics.json"])


def test_the_lock_records_parameters_and_hashes(finished: Checkout):
    recorded = finished.lock()["samerging@nano-3"]
    assert recorded["params"]["params.yaml"]["rho"] == 0.07
    assert recorded["cmd"] == "python -m stages.samerging nano-3"
    assert all(entry["md5"] for entry in (*recorded["deps"], *recorded["outs"]))


def test_a_second_run_does_nothing(finished: Checkout):
    before = (finished.root / "dvc.lock").read_bytes()
    assert finished.ran("repro") == set()
    assert (finished.root / "dvc.lock").read_bytes() == before
    assert finished.call("git", "status", "--porcelain").stdout == ""


def test_another_rho_reruns_samerging_alone_and_going_back_runs_nothing(finished: Checkout):
    first = finished.hashes()
    results = finished.contents("data/merges"), finished.contents("reports")
    assert finished.ran("exp", "run", "-S", "rho=0.5") == SAMERGING
    assert finished.lock()["samerging@nano-3"]["params"]["params.yaml"]["rho"] == 0.5
    changed = {path for path, hashed in finished.hashes().items() if hashed != first[path]}
    assert "data/merges/nano-3/samerging" in changed
    assert not [path for path in changed if path.startswith("data/") and "samerging" not in path]
    finished.set("rho=0.07")
    assert finished.ran("repro") <= {"check", "collect@nano-3", "render"}  # not in DVC's run cache
    assert finished.hashes() == first
    assert (finished.contents("data/merges"), finished.contents("reports")) == results
    assert finished.call("git", "status", "--porcelain").stdout == ""


def test_wrong_parameters_fail_with_their_messages_and_lose_nothing(finished: Checkout):
    first, merges = finished.hashes(), finished.contents("data/merges")
    for changes, messages in WRONG:
        finished.set(*changes)
        failed = finished.call("dvc", "repro")
        assert failed.returncode != 0
        assert [message for message in messages if message not in failed.stdout] == []
        assert re.findall("Running stage '(.*)'", failed.stdout) == ["check"]
        assert not re.search("Traceback|No such file", failed.stdout)
        assert finished.call("git", "checkout", "params.yaml").returncode == 0
    failed = finished.call("dvc", "exp", "run", "-S", "methods.merge=[tie]", "-S", "methods.rescale=[]")
    assert failed.returncode != 0
    assert "did you mean 'ties'?" in failed.stdout
    assert "No such file" not in failed.stdout
    assert finished.call("git", "checkout", "params.yaml").returncode == 0
    assert finished.ran("repro") == set()
    assert finished.hashes() == first
    assert finished.contents("data/merges") == merges


def test_a_run_without_studies_can_be_pushed_and_pulled(finished: Checkout, tmp_path: Path):
    remote = ("dvc", "remote", "add", "--local", "--default", "backup", str(tmp_path / "remote"))
    clone = Checkout(tmp_path / "clone", finished.environment)
    commands = (
        (finished, remote),
        (finished, ("dvc", "push", "dvc.yaml")),
        (finished, ("git", "clone", "-q", str(finished.root), str(clone.root))),
        (clone, remote),
        (clone, ("dvc", "pull", "dvc.yaml")),
    )
    for place, command in commands:
        done = place.call(*command)
        assert done.returncode == 0, done.stdout
    (finished.root / ".dvc/config.local").unlink()
    assert clone.contents("data/merges") == finished.contents("data/merges")
    assert clone.ran("repro") == set()


def test_plots_are_those_of_the_suite_that_ran(finished: Checkout, tmp_path: Path):
    done = finished.call("dvc", "plots", "show", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "failed to load" not in done.stdout
    images = {path.name for path in (tmp_path / "static").iterdir()}
    assert {f"workspace_reports_figures_nano-3-{name}.png" for name in ("accuracy", "losses", "transfer")} <= images


def test_studies_run_on_request_and_a_larger_grid_computes_only_its_new_points(finished: Checkout):
    assert finished.contents("data/studies") == {}
    written = lambda: {path: path.stat().st_mtime_ns for path in (finished.root / "data/.resumable").rglob("*.json")}  # noqa: E731
    stage = "stages/studies/dvc.yaml:{}@nano-3"
    stages = [stage.format(name) for name in ("ablation", "efficiency")]
    assert finished.ran("repro", *stages) == {*stages}
    suite = json.loads((finished.root / "data/suites/nano-3/suite.json").read_text())
    pairs = [(seed, task["name"]) for seed in ("0", "1") for task in suite["tasks"]]
    rows = finished.rows("data/studies/nano-3/efficiency/rows.csv")
    methods = ("adamerging", "distillation", "samerging")
    expected = [(method, k, *pair) for method in methods for k in ("1", "4") for pair in pairs]
    assert [(row["method"], row["k"], row["seed"], row["task"]) for row in rows] == expected
    assert all(row["samples"] == row["k"] for row in rows)
    settings = {row["setting"] for row in finished.rows("data/studies/nano-3/ablation/rows.csv")}
    assert {"entropy", "distillation"} == {setting.split("/")[0] for setting in settings}
    before = written()
    finished.set("study.efficiency.samples=[1,2,4]")
    assert finished.ran("repro", *stages) == {"check", stage.format("efficiency")}
    assert [row for row in finished.rows("data/studies/nano-3/efficiency/rows.csv") if row["k"] != "2"] == rows
    assert before.items() < written().items()
    finished.set("study.efficiency.samples=[1,4]")
    assert finished.ran("repro") == {"check"}
    shutil.rmtree(finished.root / "data/studies")
    (finished.root / "stages/studies/dvc.lock").unlink()
    assert finished.call("git", "status", "--porcelain").stdout == ""


def test_results_are_the_same_bytes_elsewhere_and_with_one_process(finished: Checkout, small: Path):
    assert Checkout(small, finished.environment).hashes() == finished.hashes()


def test_a_clone_finds_its_checkpoints_and_trains_nothing(tmp_path: Path):
    root = tmp_path / "clone"
    listed = subprocess.run(["git", "ls-files"], cwd=toy.ROOT, capture_output=True, text=True, check=True)
    toy.copy_code(root, [name for name in listed.stdout.splitlines() if (toy.ROOT / name).is_file()])
    clone = Checkout(root, surroundings(root))
    assert clone.call("git", "init", "-q").returncode == 0
    clone.set("suites=[mini-8,nano-3]")
    assert json.loads(clone.call("dvc", "status", "--json", "train").stdout) == {}
    clone.set("recipe.nano-3.pretrain_steps=21")
    assert json.loads(clone.call("dvc", "status", "--json", "train").stdout).keys() == {"train@nano-3"}
