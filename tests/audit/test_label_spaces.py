"""The audit of label spaces agrees with what the study states of some of the tasks, and planted frauds are named."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.audit import contrasts
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.suite import AuditedSuite
from pipeline.report.evidence import format_csv
from pipeline.report.render import contrast_rows
from pipeline.report.studies.label_spaces import view
from pipeline.report.tables import bullets
from pipeline.runtime import store
from tests.studies.test_label_spaces import context, made_up

EVIDENCE, REPORT = "reports/evidence/studies/s", "reports/studies/s"
ROWS, SENTENCES, TABLES = f"{EVIDENCE}/label_spaces/rows.csv", f"{REPORT}/sentences.md", f"{REPORT}/tables"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with made-up rows, and what their view states."""
    root, rows, stated = tmp_path_factory.mktemp("label_spaces"), made_up(), view(made_up(), context())
    store.write_text(root / "params.yaml", "studies: [label_spaces]\n")
    store.write_text(root / "pipeline/suites/s.yaml", f"tasks: [{', '.join(context().tasks)}]\n")
    store.write_json(root / EVIDENCE / "titles.json", dict(context().titles))
    store.write_text(root / ROWS, format_csv(rows.assign(seed=rows.seed.astype("Int64"))))
    for name, table in stated.tables.items():
        store.write_text(root / f"{TABLES}/label_spaces-{name}.csv", format_csv(table.rows))
    store.write_text(root / f"{TABLES}/label_spaces-contrasts.csv", format_csv(contrast_rows(stated), "%.10g"))
    store.write_text(root / SENTENCES, f"### {stated.title}\n\n{bullets(stated.sentences)}")
    return root


def check(root: Path) -> Finding:
    (finding,) = contrasts.check(AuditedSuite(gather(root), "s"))
    return finding


def test_what_is_stated_follows_from_the_rows(made: Path):
    finding = check(made)
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > len(made_up()) + 500


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


FRAUDS: Mapping[str, tuple[str, str, str | Callable[[re.Match], str], str]] = {
    "a precision": (ROWS, r"(labels-1,x,labels,s,ties.*,1)(\d)", increment_digit, "accuracy.csv, line 5, number "),
    "an answer": (ROWS, r"(labels-1,x,source,s,ties,a,,0,\d)(\d)", increment_digit, "but `right` has"),
    "a task left out": (ROWS, r"(?m)^labels-1,x,labels,s,ties,bb.*\n", "", "tasks a, ccc, expected each of a, bb, ccc"),
    "a comparison": (f"{TABLES}/label_spaces-contrasts.csv", r"(,all,-\d)(\d)", increment_digit, "mean is"),
    "an accuracy": (f"{TABLES}/label_spaces-accuracy.csv", r"(TIES,8)(\d)", increment_digit, "line 5, number 1 is"),
    "an end": (f"{TABLES}/label_spaces-changes.csv", r"(TIES.*?\[-1)(\d)", increment_digit, "line 4, number 2 is"),
    "a mean precision": (SENTENCES, r"(Distillation 6)(\d)", increment_digit, "line 9, number 3 is"),
    "a gain of precision": (
        SENTENCES,
        r"(over sources: Simple average \+2)(\d)",
        increment_digit,
        "line 9, number 4 is",
    ),
    "a verdict": (SENTENCES, r"(Label sets .*?TSV-M .*?), not shown", r"\1, shown", "line 7: no “, not shown”"),
    "a number of intervals": (SENTENCES, r"(?m)^(- \d)(\d) of", increment_digit, "line 11, number 1 is"),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(made: Path, tmp_path: Path, name: str):
    file, pattern, new, why = FRAUDS[name]
    root = shutil.copytree(made, tmp_path / "root")
    text = (root / file).read_text().replace("\\", "")
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    (root / file).write_text(changed)
    assert why in "; ".join(check(root).wrong), check(root).wrong
