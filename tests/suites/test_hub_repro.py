"""A real `dvc repro` makes the paper-style table of TA-8 from a replica of the hub."""

import csv
from pathlib import Path

import pytest

from pipeline.suites._clip_tasks import CLIP_TASKS, SUITES
from tests.support import hub_server, replicas, toy
from tests.test_repro import checkout

pytestmark = pytest.mark.slow
hub = hub_server.hub

NAME = "ta8-vit-b-32"
TRAIN, TEST = 24, 6
SMALL = (
    f"suites=[{NAME}]",
    f"schedule.{NAME}.steps=2",
    f"schedule.{NAME}.batch_size=4",
    f"recipe.{NAME}.pool=8",
    "methods.merge=[zeroshot,individual,task_arithmetic]",
    "methods.calibrate=[distillation]",
    "methods.rescale=[]",
    "methods.surgery=[]",
    "samples_per_task=8",
    "diagnose.samples=4",
    "diagnose.images=2",
    "diagnose.subsets=2",
)


def test_repro_makes_the_table_of_ta8(hub: hub_server.Hub, tmp_path: Path):
    contents = {"model": replicas.checkpoints("vit-b-32", SUITES["ta-8"]), "dataset": replicas.datasets(TRAIN, TEST)}
    for kind, repositories in contents.items():
        for repo, files in repositories.items():
            hub.push(kind, repo, files)
    clone = checkout(tmp_path / "repo")
    table = clone.root / "pipeline/suites/tables/tasks.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        unpinned = {"revision": "main", **{key: "" for key in rows[0] if key.startswith("revision_")}}
        writer.writerows({**row, "test_size": TEST, **unpinned} for row in rows)
    clone.set(*SMALL)
    ran = clone.ran("repro")
    assert {f"prepare@{NAME}", f"samerging@{NAME}", f"collect@{NAME}", "render"} <= ran
    scores = clone.rows(f"data/scores/{NAME}/samerging.csv")
    assert [row["task"] for row in scores if row["seed"] == "0"] == list(SUITES["ta-8"])
    assert {row["total"] for row in scores} == {str(TEST)}
    report = (clone.root / f"reports/tables/{NAME}.md").read_text()
    assert "SAMerging" in report
    assert "embedded" not in report
    anchors = clone.rows(f"reports/tables/{NAME}-anchors.csv")
    assert {row["task"] for row in anchors} == {*SUITES["ta-8"]}
    assert (clone.root / f"reports/tables/{NAME}-published.md").exists()
    page = (clone.root / "reports/index.html").read_text()
    assert CLIP_TASKS["dtd"].dataset in page
    request_count = len(hub.requests)
    assert clone.ran("repro") == set()
    assert len(hub.requests) == request_count
    assert toy.ROOT not in clone.root.parents
