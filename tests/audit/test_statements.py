"""What six studies state of numbers per task or text follows from their rows, and planted frauds are named."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.audit import contrasts
from pipeline.audit.finding import Finding, agrees
from pipeline.audit.intervals import bound_grid
from pipeline.audit.repository import gather
from pipeline.audit.statements import STUDIES
from pipeline.audit.suite import AuditedSuite
from pipeline.report.evidence import clusters_of, format_csv, load_table
from pipeline.report.studies import Context
from pipeline.report.studies.language import view as language_view
from pipeline.report.studies.theory import view as theory_view
from pipeline.report.tables import bullets
from pipeline.runtime import store
from pipeline.statistics.contrasts import paired_difference
from tests.studies.test_language import made_up as made_up_language
from tests.studies.test_theory import made_up

SUITE = "mini-8"
EVIDENCE, REPORT = f"reports/evidence/studies/{SUITE}", f"reports/studies/{SUITE}"
TABLES = f"{REPORT}/tables"
ROOT = Path(__file__).parents[2]
CLUSTERS = f"{EVIDENCE}/clusters.npz"
SENTENCES = f"{REPORT}/sentences.md"
COMMITTED = STUDIES.keys() - {"language"}
"""The studies of this suite; that of language is of another."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The studies as they are committed, to tamper with."""
    for name in ("params.yaml", f"pipeline/suites/{SUITE}.yaml", f"{EVIDENCE}/titles.json", CLUSTERS, SENTENCES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / REPORT / "tables", tmp_path / REPORT / "tables")
    for study in COMMITTED:
        shutil.copytree(ROOT / EVIDENCE / study, tmp_path / EVIDENCE / study)
    choose(tmp_path, COMMITTED)
    return tmp_path


def check(root: Path) -> dict[str, Finding]:
    """{study: the audit's finding}."""
    findings = contrasts.check(AuditedSuite(gather(root), SUITE))
    return {finding.name.partition(": ")[2]: finding for finding in findings}


def choose(root: Path, studies: Iterable[str]) -> None:
    """Choose the studies in params.yaml; of one, a check is quick."""
    path, chosen = root / "params.yaml", f"studies: [{', '.join(studies)}]\n"
    path.write_text(re.sub(r"(?m)^studies:.*\n(- .*\n)*", chosen, path.read_text()))


def test_committed_statements_follow_from_their_rows(root: Path):
    findings = check(root)
    assert findings.keys() == COMMITTED
    for study, finding in findings.items():
        assert (finding.wrong, finding.absent) == ([], [])
        rows = sum(len(pd.read_csv(path)) for path in (root / EVIDENCE / study).glob("*.csv"))
        assert finding.compared > rows + 100


def shift_counts(rows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Change counts at random; of SAMerging upwards, so that some intervals exclude zero."""
    shift = rng.integers(-9, 9, len(rows)) + 12 * (rows.method == "samerging")
    return rows.assign(correct=(rows.correct + shift).clip(0, rows.total))


def scale(column: str) -> Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]:
    """Scale numbers at random; of SAMerging more, so that some intervals exclude zero."""
    return lambda rows, rng: rows.assign(
        **{column: rows[column].astype(float) * rng.uniform(0.5, 2, len(rows)) * (1 + (rows.method == "samerging"))}
    )


CHANGES: Mapping[str, Mapping[str, Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]]] = {
    "tasks": {"rows": shift_counts},
    "robustness": {"rows": shift_counts},
    "landscape": {"solutions": scale("loss"), "rises": scale("loss"), "curvature": scale("value")},
    "flatness": {"rows": scale("rise")},
}


@pytest.mark.parametrize("study", CHANGES)
def test_the_report_of_other_rows_follows_from_them(root: Path, study: str):
    choose(root, [study])
    tables, rng = {}, np.random.default_rng(0)
    for path in sorted((root / EVIDENCE / study).glob("*.csv")):
        change = CHANGES[study].get(path.stem, lambda rows, _: rows)
        text = change(pd.read_csv(path, keep_default_na=False), rng).to_csv(index=False, lineterminator="\n")
        store.write_text(path, text)
        tables[path.stem] = load_table(path, (), keep_default_na=study != "landscape", dtype={"right": "str"})
    suite = AuditedSuite(gather(root), SUITE)
    titles, params = store.read_json(root / EVIDENCE / "titles.json"), suite.repository.params
    clusters = clusters_of(store.read_arrays(root / CLUSTERS), "test")
    context = Context(SUITE, suite.tasks, titles, 40.0, 90.0, {}, "train", "test", params, 6.5, 1, clusters)
    rows = tables.get("rows", tables)
    view = import_module(f"pipeline.report.studies.{study}").view(rows, context)
    ((name, table),) = view.tables.items()
    store.write_text(root / f"{REPORT}/tables/{study}-{name}.csv", format_csv(table.rows))
    (root / SENTENCES).write_text(f"### {view.title}\n\n{bullets(view.sentences)}")
    assert "excludes zero" in (root / SENTENCES).read_text()
    assert check(root)[study].wrong == []


@pytest.fixture
def theory(root: Path) -> Path:
    """Made-up rows of the study of theory, and what its view states of them, to tamper with."""
    choose(root, ["theory"])
    suite, rng = AuditedSuite(gather(root), SUITE), np.random.default_rng(0)
    rows = made_up(suite.tasks)
    rows["chain"]["correct"] = rng.integers(50, 90, len(rows["chain"]))
    rows["chain"]["entropy"] *= rng.uniform(0.5, 2, len(rows["chain"]))
    rows["chain"].loc[rows["chain"].method == "ties", "risk"] = 0.05
    shutil.rmtree(root / EVIDENCE / "theory", ignore_errors=True)
    for name, table in rows.items():
        store.write_text(root / EVIDENCE / f"theory/{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    titles = store.read_json(root / EVIDENCE / "titles.json")
    params = {"study.theory": suite.repository.params["study"]["theory"]}
    written = {name: load_table(root / EVIDENCE / f"theory/{name}.csv", (), keep_default_na=False) for name in rows}
    view = theory_view(written, Context(SUITE, suite.tasks, titles, 40.0, 90.0, {}, "train", "test", params, 6.5, 1))
    for name, table in view.tables.items():
        store.write_text(root / f"{TABLES}/theory-{name}.csv", format_csv(table.rows))
    (root / SENTENCES).write_text(f"### {view.title}\n\n{bullets(view.sentences)}")
    return root


def test_what_theory_states_follows_from_its_rows(theory: Path):
    finding = check(theory)["theory"]
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 800


@pytest.fixture
def language(root: Path) -> Path:
    """Made-up rows of the study of language, and what its view states of them, to tamper with."""
    choose(root, ["language"])
    titles, rows = store.read_json(root / EVIDENCE / "titles.json"), made_up_language(noise=0.2)
    store.write_text(root / f"{EVIDENCE}/language/rows.csv", format_csv(rows, "%.4g"))
    write_language(root, titles)
    return root


def write_language(root: Path, titles: Mapping[str, str]) -> None:
    """Write what the view states of the rows of the study of language."""
    rows = load_table(root / f"{EVIDENCE}/language/rows.csv", ())
    view = language_view(rows, Context(SUITE, ("dates", "news"), titles, 40.0, 90.0, {}, "train", "test", {}, 6.5, 1))
    for name, table in view.tables.items():
        store.write_text(root / f"{TABLES}/language-{name}.csv", format_csv(table.rows))
    (root / SENTENCES).write_text(f"### {view.title}\n\n{bullets(view.sentences)}")


def test_what_language_states_follows_from_its_rows(language: Path):
    finding = check(language)["language"]
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 360 + 200
    assert "(better)" in (language / SENTENCES).read_text()
    assert "(no difference shown)" in (language / SENTENCES).read_text()


def test_a_study_without_rows_states_nothing(root: Path):
    choose(root, ["robustness", "language"])
    store.write_text(root / f"{EVIDENCE}/language/rows.csv", format_csv(made_up_language().iloc[:0]))
    finding = check(root)["language"]
    assert (finding.wrong, finding.absent, finding.compared) == ([], [], 1)  # that there is a table


LANGUAGE_FRAUDS = {
    "a loss": (f"{EVIDENCE}/language/rows.csv", r"(dates,ties,,3,\d\.)(\d)", "-language.csv, line 5, number 1 "),
    "an answer": (f"{EVIDENCE}/language/rows.csv", r"(dates,ties,,3,\S+?,0.5,)(\d)", "line 5, number "),
    "a perplexity": (f"{TABLES}/language-language.csv", r"(TIES,\d\.\d)(\d)", "line 5, number 1 is"),
    "a deviation": (f"{TABLES}/language-language.csv", r"(SAMerging,\S+ ± 0\.\d)(\d)", "line 9, number 2 is"),
    "a difference": (SENTENCES, r"(minus AdaMerging -0\.\d\d)(\d)", "Language, line 1, number 1 is"),
    "an end of an interval": (SENTENCES, r"(minus AdaMerging \S+ \[-0\.\d\d)(\d)", "Language, line 1, number 2 is"),
    "exact answers": (SENTENCES, r"(Exact answers.*?minus AdaMerging -\d\d\.)(\d)", "Language, line 2, number 1 is"),
    "what SAM changes": (SENTENCES, r"(Sharpness: \D*\d\.\d\d)(\d)", "Language, line 3, number 1 is"),
    "what is forgotten": (SENTENCES, r"(General text.*Distillation -\d\.\d\d)(\d)", "Language, line 4, number 1 is"),
    "a repetition": (SENTENCES, r"(own continuations )(\d)", "Language, line 5, number 8 is"),
}  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGE_FRAUDS)
def test_a_fraud_in_language_is_named(language: Path, name: str):
    path, pattern, why = LANGUAGE_FRAUDS[name]
    text = (language / path).read_text().replace("\\", "")
    changed = re.sub(pattern, increment_digit, text, count=1)
    assert changed != text
    (language / path).write_text(changed)
    assert why in "; ".join(check(language)["language"].wrong), check(language)["language"].wrong


def test_a_false_verdict_on_language_is_named(language: Path):
    text = (language / SENTENCES).read_text()
    (language / SENTENCES).write_text(text.replace("(better)", "(worse)", 1))
    assert "Language, line 1: no “better”" in "; ".join(check(language)["language"].wrong)


THEORY_FRAUDS = {
    "a risk": (f"{EVIDENCE}/theory/chain.csv", r"(average,,mnist,0\.)(\d)", "theory-chain.csv, line 2, number 1 "),
    "a term of the table": (f"{TABLES}/theory-chain.csv", r"(TIES,[^,]*,0\.)(\d)", "theory-chain.csv, line 4, "),
    "a bound": (f"{TABLES}/theory-bounds.csv", r"(SAMerging,16,(?:[^,]*,){5}0\.)(\d)", "line 6, number 7 is"),
    "a drawn loss": (f"{EVIDENCE}/theory/bounds.csv", r"(samerging,16,0.4,mnist,16,500,15.0,0\.)(\d)", "line 6, "),
    "a residual": (f"{TABLES}/theory-linear.csv", r"(TSV-M,0\.)(\d)", "theory-linear.csv, line 5, number 1 is"),
    "a rank correlation": (SENTENCES, r"(from the experts [+-]0\.)(\d)", "Theory, line 3, number 3 is"),
    "a useful bound": (SENTENCES, r"(Of 2 bounds, )(\d)", "Theory, line 4, number "),
    "an interval of heterogeneity": (SENTENCES, r"(all weights equal: \S+ \[\+\d+\.)(\d)", "Theory, line 9, number 2 "),
    "a correlation over subsets": (SENTENCES, r"(task arithmetic \+0\.)(\d)", "Theory, line 10, number 5 is"),
}  # fmt: skip


@pytest.mark.parametrize("name", THEORY_FRAUDS)
def test_a_fraud_in_theory_is_named(theory: Path, name: str):
    path, pattern, why = THEORY_FRAUDS[name]
    text = (theory / path).read_text().replace("\\", "")
    changed = re.sub(pattern, increment_digit, text, count=1)
    assert changed != text
    (theory / path).write_text(changed)
    assert why in "; ".join(check(theory)["theory"].wrong), check(theory)["theory"].wrong


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


FRAUDS: Mapping[str, tuple[str, str, str, str | Callable[[re.Match], str], str]] = {
    "a count of a merge": (
        "tasks", f"{EVIDENCE}/tasks/rows.csv", r"(,1,mini-8,ties,mnist,,0,)(\d)", increment_digit,
        "tasks.csv, line 4, ",
    ),
    "a mean of merges": (
        "tasks", f"{TABLES}/tasks-tasks.csv", r"(TIES,\d+\.)(\d)", increment_digit, "line 4, number 1 is",
    ),
    "an end of the tasks left out": (
        "tasks", SENTENCES, r"(left out, merges.*?\[[+-]\d+\.\d)(\d)", increment_digit, "line 6, number 3 is",
    ),
    "the number of subsets": ("tasks", SENTENCES, r"n = 4 subsets", "n = 5 subsets", "number 2 is 5, "),
    "a verdict": (
        "tasks", SENTENCES, r"(With 2 tasks.*?which )includes", r"\1excludes", "line 2: no “includes zero”",
    ),
    "a count under corruption": (
        "robustness", f"{EVIDENCE}/robustness/rows.csv", r"(jpeg,1,\S+?,samerging,mnist,0,\d+,\d)(\d)", increment_digit,
        "robustness-robustness.csv, line 10, number ",
    ),
    "a deviation": (
        "robustness", f"{TABLES}/robustness-robustness.csv", r"(SAMerging,.*?± \d\.)(\d)", increment_digit,
        "line 10, number 2 is",
    ),
    "an end of a drop": ("robustness", SENTENCES, r"(Points lost.*?\[\d+\.)(\d)", increment_digit, "number 3 is"),
    "another hardest corruption": ("robustness", SENTENCES, "'Contrast'", "'JPEG'", "line 2: no “contrast”"),
    "another best merge": ("robustness", SENTENCES, "that of SAMerging", "that of TIES", "line 2: no “SAMerging”"),
    "a rise of the loss": (
        "landscape", f"{EVIDENCE}/landscape/rises.csv", r"(samerging,0,weights,worst,0.4,\w+,)(\d)", increment_digit,
        "landscape-sharpness.csv, line 4, number ",
    ),
    "an eigenvalue": (
        "landscape", f"{EVIDENCE}/landscape/curvature.csv", r"(adamerging,0,eigenvalue,\w+,0\.)(\d)", increment_digit,
        "Loss landscape, line 14, number ",
    ),
    "a trace of the table": (
        "landscape", f"{TABLES}/landscape-sharpness.csv", r"(Distillation,(?:[^,]*,){4}\d\d\.\d)(\d)",
        increment_digit, "line 3, number 9 is",
    ),
    "an interval of the eigenvalue": (
        "landscape", SENTENCES, r"(Largest.*?-0\.28)(\d)", increment_digit, "Loss landscape, line 4, number 3 is",
    ),
    "an end at zero": ("landscape", SENTENCES, r"\+0\.00882", "+0", "Loss landscape, line 2, number 4 is"),
    "an order of methods": (
        "landscape", SENTENCES, r"(by the largest.*?: )(\w+ \([\d.]+\)), (\w+ \([\d.]+\))", r"\1\3, \2", "line 14, ",
    ),
    "the rise of a rule": (
        "flatness", f"{EVIDENCE}/flatness/rows.csv", r"(sam,64,\S+,0\.00)(\d)", increment_digit,
        "flatness-flatness.csv, line 3, number ",
    ),
    "a cost": ("flatness", f"{TABLES}/flatness-flatness.csv", r"(SAM,\d\.\d)(\d)", increment_digit, "line 3, "),
    "an interval of the table": (
        "flatness", f"{TABLES}/flatness-flatness.csv", r"(SAM,.*\[-0\.000\d)(\d)", increment_digit, "line 3, ",
    ),
    "an interval of the rise": (
        "flatness", SENTENCES, r"(changes by .*?\[-0\.000\d)(\d)", increment_digit, "Flatness, line 1, number 6 is",
    ),
    "a sentence left out": ("flatness", SENTENCES, r"- In accuracy.*\n", "", "Flatness: 4 lines, not 5"),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(root: Path, name: str):
    study, path, pattern, new, why = FRAUDS[name]
    choose(root, [study])
    text = (root / path).read_text().replace("\\", "")
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    (root / path).write_text(changed)
    assert re.search(why, "; ".join(check(root)[study].wrong)), check(root)[study].wrong


def test_missing_files_of_the_report_are_reported(root: Path):
    choose(root, ["tasks"])
    shutil.rmtree(root / REPORT)
    expected = [f"{REPORT}/tables/tasks-tasks.csv", SENTENCES]
    assert replace(check(root)["tasks"], what="").absent == expected


@pytest.mark.parametrize("shape", [(3, 8), (1, 4), (2, 1)])
def test_grids_have_the_intervals_of_the_report(shape: tuple[int, int]):
    grid, tasks = np.random.default_rng(1).normal(size=shape), [*map(str, range(shape[1]))]
    pair = pd.concat({"a": pd.DataFrame(grid, columns=tasks), "b": pd.DataFrame(0.0, range(shape[0]), tasks)})
    expected = paired_difference(pair, tasks, "a", "b")
    low, high, _ = bound_grid(grid)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "value", "digits", "same"),
    [
        ("+0", 0.3, 3, False), ("0.4", 0.4000004, 4, True), ("0.4", 0.4004, 4, False),
        ("-2.11e-05", -2.1149e-5, 3, True),
        ("12", 11.96, 3, True), ("+0", 0.0, 3, True), ("1.2e-05", 0.4, None, False),
    ],
)  # fmt: skip
def test_significant_digits_agree_with_values(text: str, value: float, digits: int | None, same: bool):
    assert agrees(text, value, digits) is same


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("SAM 3 steps: 0.5 and 1,600", 0),
        ("SAM 3 steps: 0.6 and 1,600", 1),
        ("SAM 3 steps: 0.5 and 1,600 and 7", 1),
        ("SAM 4 steps: 0.5 and 1,600", 2),
    ],
)
def test_a_text_has_its_words_and_numbers_and_no_others(text: str, wrong: int):
    finding = Finding("", "")
    finding.expect_text("here", text, ["SAM 3 steps", [0.5, [1600]]])
    assert len(finding.wrong) == wrong
