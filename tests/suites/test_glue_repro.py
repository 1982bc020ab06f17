"""A real `dvc repro` makes the table of GLUE-7 on GPT-2 from a replica of the hub."""

import csv
import re
from pathlib import Path

import pytest

from pipeline.suites._glue_tasks import GLUE_TASKS
from tests.support import glue_replicas as replicas
from tests.support import hub_server
from tests.test_repro import checkout

pytestmark = pytest.mark.slow
hub = hub_server.hub

NAME = "glue7-gpt2"
TRAIN, TEST = 20, 6
SMALL = (
    f"suites=[{NAME}]",
    f"schedule.{NAME}.steps=2",
    f"schedule.{NAME}.batch_size=4",
    f"recipe.{NAME}.pool=8",
    "methods.merge=[zeroshot,individual]",
    "methods.calibrate=[]",
    "methods.svc=[]",
    "methods.rescale=[]",
    "methods.surgery=[]",
    "seeds=[0]",
    "samples_per_task=8",
    "diagnose.samples=4",
    "diagnose.images=2",
    "diagnose.subsets=2",
)


def test_repro_makes_the_table_of_glue(hub: hub_server.Hub, tmp_path: Path):
    for kind, repositories in (("model", replicas.checkpoints()), ("dataset", replicas.data(TRAIN, TEST))):
        for repo, files in repositories.items():
            hub.push(kind, repo, files)
    clone = checkout(tmp_path / "repo")
    table = clone.root / "pipeline/suites/tables/glue.csv"
    rows = clone.rows("pipeline/suites/tables/glue.csv")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "test_size": TEST, "revision": ""} for row in rows)
    definition = clone.root / f"pipeline/suites/{NAME}.yaml"
    definition.write_text(re.sub(r"\w+_revision: \w+\n", "", definition.read_text()))
    clone.set(*SMALL)
    ran = clone.ran("repro")
    assert {f"prepare@{NAME}", f"samerging@{NAME}", f"collect@{NAME}", "render"} <= ran
    scores = clone.rows(f"data/scores/{NAME}/samerging.csv")
    assert [row["task"] for row in scores] == [*GLUE_TASKS]
    assert {row["total"] for row in scores} == {str(TEST)}
    assert "SAMerging" in (clone.root / f"reports/tables/{NAME}.md").read_text()
    anchors = clone.rows(f"reports/tables/{NAME}-anchors.csv")
    assert {(row["task"], row["row"]) for row in anchors} == {
        (task, row) for task in GLUE_TASKS for row in ("zero-shot", "expert", "simple average")
    }
    published = clone.rows(f"reports/tables/{NAME}-published.csv")
    assert {"ACE", "EMR"} <= {row["method"] for row in published}
    assert "Zero-shot is the pre-trained GPT-2 with these heads." in (clone.root / "reports/index.html").read_text()
    request_count = len(hub.requests)
    assert clone.ran("repro") == set()
    assert len(hub.requests) == request_count
