"""The page of the studies: its links, escaped texts, and the refusal of inconsistent evidence."""

from pathlib import Path

import pytest

from pipeline import methods
from pipeline.report import studies
from pipeline.report.collect import collect_studies
from pipeline.report.evidence import STUDIES, rows_path
from pipeline.report.render import studies_report
from pipeline.report.view import Look
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.steps.evaluate import SCORE_COLUMNS
from pipeline.studies import names
from pipeline.studies._trials import TRIAL_COLUMNS
from tests.support import toy
from tests.support.html import Parsed

TASKS, SEEDS = ("b&<i>", "a_1"), (0, 1)
LOOK = Look(dpi=50, width=6.5, decimals=1)
PARAMS = {"calibration_split": "train", "evaluation_split": "test", "rho": 0.07}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The evidence of a study of data efficiency."""
    monkeypatch.setattr(studies, "STUDIES", ("efficiency",))
    monkeypatch.setattr(methods.load("adamerging"), "TITLE", "<script>A & e</script>")
    return write_evidence(tmp_path, [PARAMS])


def write_evidence(root: Path, params: list[dict]) -> Path:
    rows = [
        ("", k, "mini-x", method, task, seed, k, *toy.marked(right + k + seed, 100))
        for method, right in (("adamerging", 50), ("distillation", 60), ("samerging", 61))
        for k in (1, 4)
        for seed in SEEDS
        for task in TASKS
    ]
    store.write_csv(root / "efficiency.csv", TRIAL_COLUMNS, rows)
    fixed, records = [root / f"{method}.csv" for method in ("zeroshot", "individual")], []
    for path, right in zip(fixed, (30, 90), strict=True):
        store.write_csv(path, SCORE_COLUMNS, [("mini-x", path.stem, task, None, 0, right, 100) for task in TASKS])
    for index, values in enumerate(params):
        records.append(root / f"record-{index}.json")
        store.write_json(records[-1], {"params": values})
    collect_studies({"efficiency": root / "efficiency.csv"}, fixed, records, root / "mini-x")
    return root / "mini-x"


def test_every_file_that_the_page_links_to_is_written(folder: Path):
    files = studies_report(folder, LOOK)
    assert files == studies_report(folder, LOOK), "the same bytes every time"
    html = files["index.html"].decode()
    page = Parsed(html)
    assert len(page.ids) == len(set(page.ids))
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids)
    linked = {link for link in page.links if not link.startswith(("#", "https://arxiv.org/abs/"))}
    rows = "../../evidence/studies/mini-x/efficiency.csv"
    unlinked = {"index.html", "sentences.md", "tables/efficiency-contrasts.csv"}
    assert linked == files.keys() - unlinked | {"../../index.html", rows}
    assert (folder / "efficiency.csv").read_bytes() == (folder.parent / "efficiency.csv").read_bytes()
    assert "&lt;script&gt;A &amp; e" in html
    assert html.count("<script") == 1
    assert files["sentences.md"].decode().startswith("### ")


def test_studies_with_different_parameters_are_refused(tmp_path: Path):
    folder = write_evidence(tmp_path, [PARAMS, PARAMS | {"rho": 0.1}])
    with pytest.raises(BenchmarkError, match=r"stages ran with rho = 0\.07 and 0\.1; run dvc repro"):
        studies_report(folder, LOOK)


def test_answers_that_look_like_numbers_stay_text(tmp_path: Path):
    rights = ["0080", "1e05", "70"]
    store.write_csv(
        tmp_path / "efficiency.csv", TRIAL_COLUMNS, [("", 1, "x", "ties", "a", 0, 1, 1, 9, right) for right in rights]
    )
    assert studies._rows(tmp_path, "efficiency").right.tolist() == rights


def test_every_study_has_a_view_and_a_stage():
    assert sorted(STUDIES) == sorted(names())
    for study in STUDIES:
        assert (toy.ROOT / f"pipeline/report/studies/{study}.py").exists()
        declared = (toy.ROOT / f"stages/studies/{study}.py").read_text()
        assert rows_path(study, "{suite}") in declared
    assert studies.SEVERAL == ("landscape", "theory")
