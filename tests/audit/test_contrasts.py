"""The audit's contrasts equal those of the views to the digit, and frauds in rows and contrasts are named."""

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.audit import contrasts
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.suite import AuditedSuite
from pipeline.report.evidence import format_csv
from pipeline.report.render import contrast_rows
from pipeline.report.studies import ablation, conventions, efficiency, replicates
from pipeline.report.view import View
from pipeline.runtime import store
from pipeline.studies.robustness import COLUMNS as ROBUSTNESS_COLUMNS
from tests.studies import test_ablation, test_conventions, test_efficiency, test_replicates

EVIDENCE, TABLES = "reports/evidence/studies/s", "reports/studies/s/tables"


def _views() -> Mapping[str, tuple[pd.DataFrame, View, tuple[str, ...]]]:
    """{study: (made-up rows, their view, tasks)}."""
    examples = {
        "ablation": (test_ablation.scores(), ablation, test_ablation.context()),
        "efficiency": (test_efficiency.rows(), efficiency, test_efficiency.context(90.0)),
        "replicates": (test_replicates.made_up(spread=0.03), replicates, test_replicates.context()),
        "conventions": (test_conventions.made_up(), conventions, test_conventions.context()),
    }
    return {
        study: (rows, module.view(rows, context), context.tasks) for study, (rows, module, context) in examples.items()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """{study: a repository with its rows and the contrasts of its view}."""
    roots = {}
    for study, (rows, view, tasks) in _views().items():
        root = roots[study] = tmp_path_factory.mktemp(study)
        store.write_text(root / "params.yaml", f"studies: [{study}]\n")
        store.write_text(root / "pipeline/suites/s.yaml", f"tasks: [{', '.join(tasks)}]\n")
        table = rows.assign(seed=rows.seed.astype("Int64").replace(-1, pd.NA))
        store.write_text(root / f"{EVIDENCE}/{study}/rows.csv", table.to_csv(index=False, lineterminator="\n"))
        store.write_text(root / f"{TABLES}/{study}-contrasts.csv", format_csv(contrast_rows(view), "%.10g"))
    return roots


def check(root: Path) -> Finding:
    (finding,) = contrasts.check(AuditedSuite(gather(root), "s"))
    return finding


@pytest.mark.parametrize("study", ["ablation", "efficiency", "replicates", "conventions"])
def test_contrasts_of_views_follow_from_the_rows(made: dict[str, Path], study: str):
    finding = check(made[study])
    assert (finding.wrong, finding.absent) == ([], [])
    rows = len(pd.read_csv(made[study] / f"{EVIDENCE}/{study}/rows.csv"))
    stated_rows = pd.read_csv(made[study] / f"{TABLES}/{study}-contrasts.csv")
    assert finding.compared > rows + 3 * len(stated_rows)


@pytest.mark.parametrize("study", ["efficiency", "replicates", "conventions"])
def test_every_changed_number_is_named(made: dict[str, Path], tmp_path: Path, study: str):
    """All numbers of a view are changed slightly."""
    root = shutil.copytree(made[study], tmp_path / "root")
    path = root / f"{TABLES}/{study}-contrasts.csv"
    frame = pd.read_csv(path)
    columns = [name for name in ("mean", "low", "high", "like low", "like high") if name in frame]
    changed = {column: frame[column] + 0.01 + frame[column].abs() / 1000 for column in columns}
    path.write_text(format_csv(frame.assign(**changed), "%.10g"))
    wrong = check(root).wrong
    for column in columns:
        messages = {message for message in wrong if f", {column} is " in message}
        assert len(messages) == len(frame[frame[column].notna()].drop_duplicates(["name", "replicates"]))


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


FRAUDS: Mapping[str, tuple[str, str, str | Callable[[re.Match], str], str]] = {
    "a count": (
        f"{EVIDENCE}/efficiency/rows.csv",
        r"(,samerging,\w+,1,\d+,)(\d)",
        increment_digit,
        "`right` has|of \\d+ correct",
    ),
    "an example": (f"{EVIDENCE}/efficiency/rows.csv", r"(?m)[1-9a-f](\w*)$", r"0\1", "correct, but `right` has"),
    "half a count": (
        f"{EVIDENCE}/efficiency/rows.csv",
        r"(?m),(\d+),(\d+),(\w+)$",
        r",\1.5,\2,\3",
        "counts must be whole",
    ),
    "a missing row": (f"{EVIDENCE}/efficiency/rows.csv", r"(?m)^.*,samerging,\w+,1,.*\n", "", "expected each of "),
    "another setting": (
        f"{TABLES}/efficiency-contrasts.csv",
        r'\[""distillation""',
        '[""elsewhere""',
        "runs that are not there",
    ),
    "an end left out": (f"{TABLES}/efficiency-contrasts.csv", r"(?m)(,all,[^,]*),[^,]*,", r"\1,,", "low is missing"),
    "tasks won": (f"{TABLES}/efficiency-contrasts.csv", r"(?m)\d,(\d)$", r"9,\1", "won is 9"),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(made: dict[str, Path], tmp_path: Path, name: str):
    file, pattern, new, why = FRAUDS[name]
    root = shutil.copytree(made["efficiency"], tmp_path / "root")
    text = (root / file).read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    (root / file).write_text(changed)
    assert re.search(why, "; ".join(check(root).wrong)), check(root).wrong


def test_missing_answers_are_reported(made: dict[str, Path], tmp_path: Path):
    root = shutil.copytree(made["efficiency"], tmp_path / "root")
    path = root / f"{EVIDENCE}/efficiency/rows.csv"
    path.write_text(pd.read_csv(path).drop(columns="right").to_csv(index=False))
    assert check(root).absent == ["answers to single examples (`right`)"]


def test_studies_that_are_not_chosen_are_ignored(made: dict[str, Path], tmp_path: Path):
    root = shutil.copytree(made["efficiency"], tmp_path / "root")
    store.write_text(root / f"{EVIDENCE}/ablation/rows.csv", "no table")
    assert check(root).wrong == []
    store.write_text(root / "params.yaml", "studies: [tasks]\n")
    assert check(root).wrong == [f"{EVIDENCE}/tasks has no tables"]
    assert not [path for path in gather(root).restored if path.startswith("data/studies")]


def test_a_study_that_does_not_apply_has_nothing_to_check(tmp_path: Path):
    store.write_text(tmp_path / "params.yaml", "studies: [robustness]\n")
    store.write_text(tmp_path / "pipeline/suites/s.yaml", "tasks: [a]\n")
    store.write_csv(tmp_path / f"{EVIDENCE}/robustness/rows.csv", ROBUSTNESS_COLUMNS, [])
    assert (check(tmp_path).wrong, check(tmp_path).absent) == ([], [])


def test_a_repository_without_studies_has_nothing_to_check(tmp_path: Path):
    store.write_text(tmp_path / "pipeline/suites/s.yaml", "tasks: [a]\n")
    assert replace(check(tmp_path), what="").verdict == "none"


def test_a_contrast_of_one_run_is_its_accuracy():
    """With one seed and one example per task, only the tasks vary."""
    rows = pd.DataFrame(
        [("m", task, 0, right, 1, [right]) for task, right in zip("abc", (1, 0, 1), strict=True)],
        columns=["method", "task", "seed", "correct", "total", "answers"],
    )
    rows.answers = rows.answers.map(np.array)
    runs = {("m",): contrasts.read_runs(rows, ("a", "b", "c"))}
    values = contrasts.compute_contrast(runs, {("m",): 1.0}, ())
    expected = stats.ttest_1samp([100.0, 0.0, 100.0], 0).confidence_interval(0.95)
    assert values["mean"] == pytest.approx(200 / 3)
    assert (values["low"], values["high"]) == pytest.approx((200 / 3, 200 / 3))
    assert (values["like low"], values["like high"]) == pytest.approx((*expected,))
