"""DVC makes the paper-style table of TA-8 from a replica of the hub."""

import csv
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from pipeline.suites import _clip_tasks
from tests.support import hub_server, replicas, small_run

pytestmark = pytest.mark.long
hub = hub_server.hub

NAME = "ta8-vit-b-32"
TRAIN, TEST = 24, 6
SMALL = (
    f"suites=[{NAME}]",
    "seeds=[0,1]",
    f"schedule.{NAME}.steps=2",
    f"schedule.{NAME}.batch_size=4",
    f"recipe.{NAME}.pool=8",
    "methods.merge=[zeroshot,individual,task_arithmetic]",
    "methods.calibrate=[distillation]",
    "methods.svc=[]",
    "methods.rescale=[]",
    "methods.surgery=[]",
    "samples_per_task=8",
    "diagnose.samples=4",
    "diagnose.images=2",
    "diagnose.subsets=2",
    "report.dpi=50",
)


def test_dvc_makes_the_table_of_ta8(hub: hub_server.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tasks = _clip_tasks.SUITES["ta-8"]
    contents = {"model": replicas.checkpoints("vit-b-32", tasks), "dataset": replicas.datasets(TRAIN, TEST)}
    for kind, repositories in contents.items():
        for repo, files in repositories.items():
            hub.push(kind, repo, files)
    monkeypatch.setattr(_clip_tasks, "CLIP_TASKS", replicas.unpinned(TEST))
    root = small_run.copy_pipeline(tmp_path / "repository")
    apply_overrides(str(root / "params.yaml"), [*SMALL])
    with small_run.inside(root), small_run.in_this_process(), Repo(str(root)) as repo:
        ran = {stage.addressing for stage in repo.reproduce()}
        request_count = len(hub.requests)
        assert repo.reproduce() == []
    assert {f"prepare@{NAME}", f"samerging@{NAME}", f"collect@{NAME}", "render"} <= ran
    assert len(hub.requests) == request_count
    scores = rows(root / f"data/scores/{NAME}/samerging.csv")
    assert [row["task"] for row in scores if row["seed"] == "0"] == list(tasks)
    assert {row["total"] for row in scores} == {str(TEST)}
    report = (root / f"reports/tables/{NAME}.md").read_text()
    assert "SAMerging" in report
    assert "embedded" not in report
    anchors = rows(root / f"reports/tables/{NAME}-anchors.csv")
    assert {row["task"] for row in anchors} == {*tasks}
    assert (root / f"reports/tables/{NAME}-published.md").exists()
    page = (root / "reports/index.html").read_text()
    assert _clip_tasks.CLIP_TASKS["dtd"].dataset in page


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return [*csv.DictReader(file)]
