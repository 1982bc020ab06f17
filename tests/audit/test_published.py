"""The audit compares scores with the table of published accuracies of the same checkpoints."""

from pathlib import Path

import pytest

from pipeline.audit import examples
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.suite import AuditedSuite
from pipeline.suites._glue_tasks import GLUE_TASKS
from tests.support import toy

NAME = "glue7-gpt2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with the definition and the scores of GLUE-7: those that are published."""
    toy.copy_code(tmp_path, ("params.yaml", f"pipeline/suites/{NAME}.yaml", "pipeline/suites/tables"))
    write_scores(tmp_path, {})
    return tmp_path


def write_scores(root: Path, wrong: dict[tuple[str, str], int]) -> None:
    """Write the scores; wrong: {(method, task): texts that are answered rightly beyond those published}."""
    lines = ["suite,method,task,seed,samples,correct,total"]
    for name, task in GLUE_TASKS.items():
        for method, percent in (("zeroshot", task.zeroshot), ("individual", task.expert), ("average", task.average)):
            correct = round(percent / 100 * task.test_size) + wrong.get((method, name), 0)
            lines.append(f"{NAME},{method},{name},,0,{correct},{task.test_size}")
    path = root / f"reports/evidence/suites/{NAME}/scores.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def find(root: Path, name: str) -> Finding:
    """One finding on the suite."""
    checks = {finding.name: finding for finding in examples.check(AuditedSuite(gather(root), NAME))}
    return checks[f"{NAME}: {name}"]


def test_published_scores_pass(root: Path):
    assert (find(root, "anchors").wrong, find(root, "anchors").compared) == ([], 3 * 7)
    assert find(root, "sizes").wrong == []


@pytest.mark.parametrize(
    ("method", "task", "texts", "name"),
    [
        ("zeroshot", "mnli", 12, "mnli zero-shot"),
        ("individual", "rte", 4, "rte expert"),
        ("average", "qqp", -70, "qqp"),
    ],
)
def test_a_score_that_differs_has_to_be_flagged(root: Path, method: str, task: str, texts: int, name: str):
    write_scores(root, {(method, task): texts})
    (complaint,) = find(root, "anchors").wrong
    assert complaint.startswith(name)
    (root / "reports/tables").mkdir()
    (root / f"reports/tables/{NAME}.md").write_text(f"NOT reproduced: {complaint.split(':')[0]} (+1)")
    assert find(root, "anchors").wrong == []


def test_a_score_on_too_few_texts_is_named(root: Path):
    path = root / f"reports/evidence/suites/{NAME}/scores.csv"
    path.write_text(path.read_text().replace(",277\n", ",276\n"))
    assert find(root, "sizes").wrong == ["rte: scored on [276] examples, the test split has 277"]


@pytest.mark.parametrize("change", ["max_length: 128", "merge_embeddings: false"])
def test_nothing_is_published_of_another_definition(root: Path, change: str):
    write_scores(root, {("individual", "sst2"): -100})
    definition = root / f"pipeline/suites/{NAME}.yaml"
    key = change.split(":", maxsplit=1)[0]
    lines = [change if line.startswith(f"{key}:") else line for line in definition.read_text().splitlines()]
    definition.write_text("\n".join(lines))
    assert find(root, "anchors").compared == 0
