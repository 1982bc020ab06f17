"""The page of the studies: its links, escaped texts, and the refusal of inconsistent evidence."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import methods
from pipeline.report import studies
from pipeline.report.collect_studies import collect_context, collect_study
from pipeline.report.evidence import STUDIES
from pipeline.report.render import studies_report
from pipeline.report.view import Look
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.steps.evaluate import SCORE_COLUMNS
from pipeline.studies import names, replicates, robustness
from pipeline.studies._trials import TRIAL_COLUMNS
from tests.support import toy
from tests.support.html import Parsed

TASKS, SEEDS = ("b&<i>", "a_1"), (0, 1)
COMMITTED, REPORT = Path("reports/evidence/studies/mini-8"), Path("reports/studies/mini-8")
LOOK = Look(dpi=50, width=6.5, decimals=1)
TITLES = {name: name for name in methods.names()} | {"adamerging": "<script>A & e</script>"}
PARAMS = {"calibration_split": "train", "evaluation_split": "test", "rho": 0.07}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The evidence of a study of data efficiency."""
    return write_evidence(tmp_path)


def write_evidence(root: Path) -> Path:
    rows = [
        ("", k, "mini-x", method, task, seed, k, *toy.marked(right + k + seed, 100))
        for method, right in (("adamerging", 50), ("distillation", 60), ("samerging", 61))
        for k in (1, 4)
        for seed in SEEDS
        for task in TASKS
    ]
    fixed = [root / f"{method}.csv" for method in ("zeroshot", "individual")]
    for path, right in zip(fixed, (30, 90), strict=True):
        store.write_csv(path, SCORE_COLUMNS, [("mini-x", path.stem, task, None, 0, right, 100) for task in TASKS])
    folder = root / "mini-x"
    clusters = root / "clusters.npz"
    store.write_arrays(clusters, {})
    outputs = [folder / name for name in ("scores.csv", "titles.json", "clusters.npz")]
    collect_context(fixed, clusters, TITLES, outputs)
    add_study(folder, "efficiency", TRIAL_COLUMNS, rows)
    return folder


def add_study(folder: Path, study: str, columns: Sequence[str], rows: list[tuple], **changed: float) -> None:
    """Add the evidence of a study."""
    written, record = folder.parent / study, folder.parent / f"{study}-mini-x.json"
    store.write_csv(written / "rows.csv", columns, rows)
    store.write_json(record, {"params": PARAMS | changed})
    collect_study(written, record, folder / study)


def test_every_file_that_the_page_links_to_is_written(folder: Path):
    files = studies_report(folder, LOOK, ["efficiency"])
    assert files == studies_report(folder, LOOK, ["efficiency"]), "the same bytes every time"
    html = files["index.html"].decode()
    page = Parsed(html)
    assert len(page.ids) == len(set(page.ids))
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids)
    linked = {link for link in page.links if not link.startswith(("#", "https://arxiv.org/abs/"))}
    rows = "../../evidence/studies/mini-x/efficiency/rows.csv"
    unlinked = {"index.html", "sentences.md", "tables/efficiency-contrasts.csv"}
    assert linked == files.keys() - unlinked | {"../../index.html", rows}
    assert (folder / "efficiency/rows.csv").read_bytes() == (folder.parent / "efficiency/rows.csv").read_bytes()
    assert "&lt;script&gt;A &amp; e" in html
    assert html.count("<script") == 1
    assert files["sentences.md"].decode().startswith("### ")


def test_the_page_shows_the_chosen_studies_alone(folder: Path):
    expected = studies_report(folder, LOOK, ["efficiency"])
    add_study(folder, "ablation", TRIAL_COLUMNS, [], rho=0.1)
    assert studies_report(folder, LOOK, ["efficiency"]) == expected
    with pytest.raises(BenchmarkError, match=r"stages ran with rho = 0\.1 and 0\.07; run dvc repro"):
        studies_report(folder, LOOK, ["ablation", "efficiency"])
    with pytest.raises(BenchmarkError, match=r"tasks/records\.json: no such file; run dvc repro"):
        studies_report(folder, LOOK, ["tasks"])


def test_intervals_of_the_page_are_over_clusters(folder: Path):
    """Of the toy's answers the first ones are right: clusters of neighbours differ more than single examples."""
    clusters = np.stack([np.zeros(100, np.int64), np.arange(100) // 10], 1)
    alone = studies_report(folder, LOOK, ["efficiency"])["tables/efficiency-contrasts.csv"]
    store.write_arrays(folder / "clusters.npz", {f"validation/{task}": clusters for task in TASKS})
    assert studies_report(folder, LOOK, ["efficiency"])["tables/efficiency-contrasts.csv"] == alone, "not scored"
    store.write_arrays(folder / "clusters.npz", {f"test/{task}": clusters for task in TASKS})
    wide, narrow = (
        pd.read_csv(io.BytesIO(table))
        for table in (studies_report(folder, LOOK, ["efficiency"])["tables/efficiency-contrasts.csv"], alone)
    )
    assert (wide["mean"] == narrow["mean"]).all()
    assert (wide["high"] - wide["low"]).mean() > 1.5 * (narrow["high"] - narrow["low"]).mean()


def test_the_page_says_which_studies_do_not_apply(folder: Path):
    add_study(folder, "robustness", robustness.COLUMNS, [])
    add_study(folder, "replicates", replicates.COLUMNS, [])
    expected = studies_report(folder, LOOK, ["efficiency"])
    files = studies_report(folder, LOOK, ["replicates", "efficiency", "robustness"])
    html = files.pop("index.html").decode()
    assert files == {name: content for name, content in expected.items() if name != "index.html"}
    absent = "robustness, which needs images; replicates, which needs a base that is trained here"
    assert html.replace(f"<p>Not measured here: {absent}.</p>\n", "") == expected["index.html"].decode()


def test_a_study_of_other_parameters_is_shown_alone():
    """That of robustness scores the merges of the main run: it depends on no calibration split."""
    files = studies_report(COMMITTED, LOOK, ["robustness"])
    assert files["sentences.md"].decode() in (REPORT / "sentences.md").read_text("utf-8")
    table = "tables/robustness-robustness.csv"
    assert files[table] == (REPORT / table).read_bytes()


@pytest.mark.parametrize("study", sorted(path.parent.name for path in COMMITTED.glob("*/records.json")))
def test_committed_comparisons_follow_from_committed_rows(study: str):
    """Each view knows which examples are clusters: without them these intervals would be others."""
    table = f"tables/{study}-contrasts.csv"
    files, kept = studies_report(COMMITTED, LOOK, [study]), REPORT / table
    assert (table in files) == kept.exists()
    if kept.exists():  # some studies keep no answers to single examples
        pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(files[table])), pd.read_csv(kept), rtol=1e-8, atol=1e-9)


def test_no_rows_of_a_study_that_applies_to_every_suite_are_refused(folder: Path):
    add_study(folder, "ablation", TRIAL_COLUMNS, [])
    with pytest.raises(BenchmarkError, match="ablation: no rows; run dvc repro"):
        studies_report(folder, LOOK, ["ablation"])


def test_answers_that_look_like_numbers_stay_text(tmp_path: Path):
    rights = ["0080", "1e05", "70"]
    store.write_csv(
        tmp_path / "rows.csv", TRIAL_COLUMNS, [("", 1, "x", "ties", "a", 0, 1, 1, 9, right) for right in rights]
    )
    assert studies._rows(tmp_path).right.tolist() == rights


def test_every_study_has_a_view_and_a_stage():
    assert sorted(STUDIES) == sorted(names())
    for study in STUDIES:
        assert (toy.ROOT / f"pipeline/report/studies/{study}.py").exists()
        declared = (toy.ROOT / f"stages/studies/{study}.py").read_text()
        assert f'outputs=("data/studies/{{suite}}/{study}",)' in declared
    assert {*studies.NEEDS} < {*STUDIES}
