"""The audit of the study of conflict agrees with what the study states, and planted frauds are named."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.audit import conflict, contrasts
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.suite import AuditedSuite
from pipeline.report.evidence import format_csv
from pipeline.report.render import contrast_rows
from pipeline.report.studies.conflict import view
from pipeline.report.tables import bullets
from pipeline.runtime import store
from tests.studies.test_conflict import KINDS, METHODS, SIZES, context, made_labels, made_up

EVIDENCE, REPORT, LABELS = "reports/evidence/studies/s", "reports/studies/s", "data/suites/s/labels/test"
VIEWED = ("accuracy", "pairs", "changes", "distillation", "served", "warnings")
ROWS, SENTENCES, TABLES = f"{EVIDENCE}/conflict/rows.csv", f"{REPORT}/sentences.md", f"{REPORT}/tables"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with made-up rows of the study, and what its view states of them."""
    root, rows = tmp_path_factory.mktemp("conflict"), made_up()
    pairs = {"sources": [0, 1, 2], "degrees": [float(q) for q in KINDS], "partners": 2, "seed": 3}
    store.write_text(root / "pipeline/suites/s.yaml", f"tasks: [{', '.join(SIZES)}]\n")
    chosen = {"suites": ["s"], "studies": ["conflict"]}
    store.write_json(root / "params.yaml", {**chosen, "evaluation_split": "test", "study": {"conflict": pairs}})
    store.write_text(root / ROWS, rows.assign(seed=rows.seed.astype("Int64")).to_csv(index=False, lineterminator="\n"))
    store.write_text(root / ROWS, re.sub(r"(-\d)\.0,|,(\d)\.0,", r"\1,\2,", (root / ROWS).read_text()))
    store.write_json(root / EVIDENCE / "titles.json", dict(context().titles))
    counts = "".join(f"s,zeroshot,{task},,0,1,{size}\n" for task, size in SIZES.items())
    text = f"suite,method,task,seed,samples,correct,total\n{counts}"
    store.write_text(root / "reports/evidence/suites/s/scores.csv", text)
    for source in SIZES:
        store.write_array(root / LABELS / f"{source}.npy", made_labels(source))
    stated = view(rows, context())
    for name, table in stated.tables.items():
        store.write_text(root / f"{TABLES}/conflict-{name}.csv", format_csv(table.rows))
    store.write_text(root / f"{TABLES}/conflict-contrasts.csv", format_csv(contrast_rows(stated), "%.10g"))
    store.write_text(root / SENTENCES, f"### {stated.title}\n\n{bullets(stated.sentences)}\n### Next\n\n- 5\n")
    return root


def check(root: Path) -> Finding:
    (finding,) = conflict.check(AuditedSuite(gather(root), "s"))
    return finding


def test_what_is_stated_of_conflict_follows_from_its_rows(made: Path):
    finding = check(made)
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 2 * len(METHODS) * 3 * 5 + 900
    assert "conflict" not in {part.name.partition(": ")[2] for part in contrasts.check(AuditedSuite(gather(made), "s"))}


def flip(text: str, method: str, task: str, partner: str, degree: str, *images: int) -> str:
    """Flip answers of one row, and count again."""
    rows = pd.read_csv(pd.io.common.StringIO(text), dtype=str, keep_default_na=False)
    place = (rows.method == method) & (rows.task == task) & (rows.partner == partner) & (rows.degree == degree)
    (index,) = rows.index[place]
    right = np.unpackbits(np.frombuffer(bytes.fromhex(rows.right[index]), np.uint8))
    right[[*images]] ^= 1
    rows.loc[index, ["correct", "right"]] = [str(right.sum()), np.packbits(right).tobytes().hex()]
    return rows.to_csv(index=False, lineterminator="\n")


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


FRAUDS: Mapping[str, tuple[str, str | Callable[[str], str], str | Callable[[re.Match], str], str]] = {
    "a count": (ROWS, r"(samerging,a,3,6,\d)(\d)", increment_digit, "correct, but `right` has"),
    "an answer of a merge": (ROWS, lambda text: flip(text, "ties", "a", "a-0.5", "0.5", 7), "", "no single model"),
    "both right": (ROWS, lambda text: flip(text, "tsv_m", "bb", "bb-1", "1", *range(9)), "", "no single model gives"),
    "a label": (ROWS, lambda text: flip(text, "bound", "a-1", "a-1", "1", *range(80)), "", "one label again"),
    "a perfect answer": (ROWS, lambda text: flip(text, "bound", "a", "a-1", "1", 0), "", "bound is not right on every"),
    "the classes": (f"{LABELS}/a.npy", "", "", "other images have two labels"),
    "an answer of an expert": (
        ROWS, lambda text: flip(text, "individual", "a", "bb", "", 0), "", "the expert of a answers differently"
    ),
    "a pair left out": (ROWS, r"(?m)(^a,ccc,.*\n)+", "", "the pairs are .* params.yaml gives"),
    "a method left out": (ROWS, r"(?m)(^a,ccc,,s,ties,.*\n)+", "", "pairs are merged by different methods"),
    "a row left out": (ROWS, r"(?m)^a,ccc,,s,ties,a,.*\n", "", "expected a and ccc once"),
    "another seed": (ROWS, r"samerging,a,3", "samerging,a,4", "are no seed of it"),
    "other examples": (
        "reports/evidence/suites/s/scores.csv", r"(bb,,0,1,)\d+", r"\g<1>99", r"scored on \[100, 100\] examples"
    ),
    "a loss": (ROWS, r"(distillation,a-1,3,6,\d+,\d+,\w+,)(\d)", increment_digit, "warnings.csv, line 7, num"),
    "a comparison": (f"{TABLES}/conflict-contrasts.csv", r"(all,-\d)(\d)", increment_digit, "mean is"),
    "a comparison left out": (f"{TABLES}/conflict-contrasts.csv", r"(?m)^\"?more.*\n", "", "other comparisons than"),
    "a weight": (f"{TABLES}/conflict-contrasts.csv", r"bound", "ties", "weighs other settings"),
    "a mean": (f"{TABLES}/conflict-accuracy.csv", r"(TIES,\d)(\d)", increment_digit, "accuracy.csv, line 7, number 1 "),
    "a share of images": (f"{TABLES}/conflict-accuracy.csv", r"(labels,,0.0,\d)(\d)", increment_digit, "line 2, numb"),
    "a mean of a pair": (f"{TABLES}/conflict-pairs.csv", r"(q = 1\",.*?0,50.0,\d\d\.)(\d)", increment_digit, "line 4"),
    "an end of a change": (f"{TABLES}/conflict-changes.csv", r"(AdaM.*?q*\[-?\+?\d)(\d*)", r"\g<1>9", "changes.csv, "),
    "a task that is served": (f"{TABLES}/conflict-served.csv", r"(AdaMerging.*)\(3 : 0\)", r"\1(2 : 0)", "line 6, n"),
    "a bound": (SENTENCES, r"(at most 10)(\d)", increment_digit, "Conflict, line 1, number 3 is"),
    "an end below the bound": (SENTENCES, r"(below the bound.*?\[\+\d\.)(\d)", increment_digit, "line 2, number 3 is"),
    "a verdict": (SENTENCES, r"(below the bound.*?), shown", r"\1, not shown", "line 2: no “, shown”"),
    "a verdict of zero": (SENTENCES, r"(AdaMerging, conf.*?), not shown", r"\1, shown", "line 7: no “, not shown”"),
    "a number of intervals": (SENTENCES, r"(degrees of conflict, \d?)(\d)", increment_digit, "line 11, number 1 is"),
    "a method that serves": (SENTENCES, r"(Which.*?)TIES", r"\1TSV-M", "line 13: no “TIES”"),
    "a warning": (SENTENCES, r"(Entropy of Dist.*?images: \d\.)(\d)", increment_digit, "line 16, number 1 is"),
    "the number of sources": (SENTENCES, r"over the 3 sources", "over the 4 sources", "line 18, number 3 is"),
    "a sentence left out": (SENTENCES, r"- TIES, conf.*\n", "", "Conflict: 17 lines, not 18"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(made: Path, tmp_path: Path, name: str):
    path, pattern, new, why = FRAUDS[name]
    root = shutil.copytree(made, tmp_path / "root")
    if path.endswith(".npy"):
        store.write_array(root / path, np.roll(made_labels("a"), 1))
    else:
        text = (root / path).read_text().replace("\\", "")
        changed = pattern(text) if callable(pattern) else re.sub(pattern, new, text, count=1)
        assert changed != text
        (root / path).write_text(changed)
    assert re.search(why, "; ".join(check(root).wrong)), check(root).wrong


def test_rows_that_are_no_counts_are_named(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "root")
    (root / ROWS).write_text((root / ROWS).read_text().replace("average,a,,0,", "average,a,,0.5,", 1))
    assert "counts must be whole" in "; ".join(check(root).wrong)


def test_what_is_missing_is_reported(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "root")
    for folder in ("data", REPORT, "reports/evidence/suites"):
        shutil.rmtree(root / folder)
    finding = check(root)
    assert finding.wrong == []
    tables = [f"{TABLES}/conflict-{name}.csv" for name in ("contrasts", *VIEWED)]
    expected = ["scores of s (numbers of examples)", *(f"labels of {task}" for task in SIZES), *tables, SENTENCES]
    assert finding.absent == expected


def test_a_study_without_rows_has_nothing_to_compare(made: Path, tmp_path: Path):
    root = shutil.copytree(made, tmp_path / "root")
    (root / ROWS).write_text((root / ROWS).read_text().partition("\n")[0] + "\n")
    assert (check(root).verdict, check(root).wrong) == ("none", [])
    (root / ROWS).unlink()
    assert conflict.check(AuditedSuite(gather(root), "s")) == []
