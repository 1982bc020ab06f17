"""The audit of label spaces agrees with what the study states of some of the tasks, and planted frauds are named."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from pipeline.audit import contrasts, label_spaces
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.suite import AuditedSuite
from pipeline.report.evidence import format_csv
from pipeline.report.render import contrast_rows
from pipeline.report.studies.label_spaces import view
from pipeline.report.tables import bullets
from pipeline.runtime import store
from tests.studies.test_label_spaces import SIZES, context, made_up

EVIDENCE, REPORT = "reports/evidence/studies/s", "reports/studies/s"
ROWS, SENTENCES, TABLES = f"{EVIDENCE}/label_spaces/rows.csv", f"{REPORT}/sentences.md", f"{REPORT}/tables"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with made-up rows of multi-label tasks, and what their view states."""
    return write(tmp_path_factory.mktemp("label_spaces"), related=False)


def write(root: Path, related: bool) -> Path:
    """Write made-up rows and what their view states; return the folder."""
    rows = made_up(related)
    stated, tasks = view(rows, context()), [*SIZES]
    others = {task: ["other-1", "other-2"] for task in tasks}
    pairs = [[task, "related"] for task in tasks] if related else []
    study = {"others": others, "related": pairs, "labels": [1, 2], "seed": 3}
    content = {"suites": ["s"], "studies": ["label_spaces"], "evaluation_split": "test"}
    store.write_json(root / "params.yaml", {**content, "study": {"label_spaces": study}})
    store.write_text(
        root / "pipeline/suites/s.yaml", f"tasks: [{', '.join((*tasks, 'other-1', 'other-2', 'related'))}]\n"
    )
    store.write_json(root / EVIDENCE / "titles.json", dict(context().titles))
    counts = "".join(f"s,zeroshot,{task},,0,1,{size}\n" for task, size in SIZES.items())
    scores = f"suite,method,task,seed,samples,correct,total\n{counts}"
    store.write_text(root / "reports/evidence/suites/s/scores.csv", scores)
    store.write_text(root / ROWS, format_csv(rows.assign(seed=rows.seed.astype("Int64"))))
    for name, table in stated.tables.items():
        store.write_text(root / f"{TABLES}/label_spaces-{name}.csv", format_csv(table.rows))
    store.write_text(root / f"{TABLES}/label_spaces-contrasts.csv", format_csv(contrast_rows(stated), "%.10g"))
    store.write_text(root / SENTENCES, f"### {stated.title}\n\n{bullets(stated.sentences)}")
    return root


def check(root: Path) -> Finding:
    (finding,) = label_spaces.check(AuditedSuite(gather(root), "s"))
    return finding


@pytest.mark.parametrize("related", [False, True])
def test_what_is_stated_follows_from_the_rows(tmp_path: Path, related: bool):
    root = write(tmp_path, related)
    finding, others = check(root), contrasts.check(AuditedSuite(gather(root), "s"))
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 400
    assert "s: label_spaces" not in {part.name for part in others}


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


FRAUDS: Mapping[str, tuple[str, str, str | Callable[[re.Match], str], str]] = {
    "a source left out": (ROWS, r"(?m)^[^,]*,[^,]*,[^,]*,s,[^,]*,bb,.*\n", "", "the pairs are"),
    "another partner": (ROWS, r"(?m)^other-1,other-1,", "other-1,elsewhere,", "the pairs are"),
    "another seed": (ROWS, r"(other-2,source,s,samerging,a,)3", r"\g<1>4", "[4] is no seed of it"),
    "other examples": ("reports/evidence/suites/s/scores.csv", r"(a,,0,1,)80", r"\g<1>81", "scored on [80"),
    "an answer": (ROWS, r"(other-2,source,s,ties,a,,0,\d)(\d)", increment_digit, "but `right` has"),
    "a method left out": (ROWS, r"(?m)^other-1,other-1,source,s,ties,bb.*\n", "", "merged by different methods"),
    "a mean": (f"{TABLES}/label_spaces-contrasts.csv", r"(,all,-?\d)(\d)", increment_digit, "mean is"),
    "a comparison left out": (f"{TABLES}/label_spaces-contrasts.csv", r"(?m)^\"?pair.*\n", "", "other comparisons"),
    "a weight": (f"{TABLES}/label_spaces-contrasts.csv", "other-2", "other-1", "weighs other settings"),
    "an accuracy": (f"{TABLES}/label_spaces-accuracy.csv", r"(TIES,8)(\d)", increment_digit, "line 5, number 1 is"),
    "an end": (f"{TABLES}/label_spaces-changes.csv", r"(TIES.*?\[-1)(\d)", increment_digit, "line 4, number 2 is"),
    "a verdict": (SENTENCES, r"(?m)^(- Mean acc.*?SAMerging .*?), not shown", r"\1, shown", "no “, not shown”"),
    "another method": (SENTENCES, r"merged, Distillation minus", "merged, SAMerging minus", "no “Distillation”"),
    "a number of intervals": (SENTENCES, r"(?m)^(- \d?)(\d) of", increment_digit, "number 1 is"),
    "a precision": (ROWS, r"(labels-2,a-2-labels,labels,s,ties.*,1)(\d)", increment_digit, "accuracy.csv, line 5, "),
    "an impossible one": (ROWS, r"(labels-2,a-2-labels,labels,s,ties.*,1)(\d)", r"\g<1>99", "average precision ["),
    "a mean precision": (SENTENCES, r"(2 labels per image: experts .*?tion 6)(\d)", increment_digit, "number 3 is"),
    "a gain": (SENTENCES, r"(over sources: Simple average \+2)(\d)", increment_digit, "number 4 is"),
    "answers of two models": (
        ROWS, r"(labels-1,a-1-labels,labels,s,ties,a,,0),\d+,80,\w+", rf"\1,80,80,{'f' * 20}", "no single model gives",
    ),
}  # fmt: skip
EVERYWHERE = ("a source left out", "another partner")
"""Frauds that change every row that they can."""


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(made: Path, tmp_path: Path, name: str):
    file, pattern, new, why = FRAUDS[name]
    root = shutil.copytree(made, tmp_path / "root")
    text = (root / file).read_text().replace("\\", "")
    changed = re.sub(pattern, new, text, count=0 if name in EVERYWHERE else 1)
    assert changed != text
    (root / file).write_text(changed)
    assert why in "; ".join(check(root).wrong), check(root).wrong


def test_an_expert_with_two_answers_is_named(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "root")
    rows = pd.read_csv(root / ROWS, dtype=str, keep_default_na=False)
    first = rows.index[(rows.method == "individual") & (rows.task == "a")][0]
    bits = rows.loc[first, "right"]
    rows.loc[first, "right"] = bits[2:] + bits[:2]
    store.write_text(root / ROWS, rows.to_csv(index=False, lineterminator="\n"))
    assert "the expert of a answers differently from pair to pair" in check(root).wrong


def test_the_study_is_checked_only_where_it_was_chosen(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "root")
    store.write_json(root / "params.yaml", {"suites": ["s"], "studies": ["ablation"]})
    assert label_spaces.check(AuditedSuite(gather(root), "s")) == []
