"""The studies' page: every file that it links to is written beside it, and texts stay texts."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from pipeline.studies._report import STUDIES, data, write

from pipeline import methods, store
from pipeline.errors import BenchmarkError
from pipeline.evaluate import HEADER
from pipeline.studies import _report, names
from pipeline.trial import SCORES
from tests import toy
from tests.html import Parsed

TASKS, SEEDS = ("b&<i>", "a_1"), (0, 1)
LOOK = SimpleNamespace(dpi=50, width=6.5, decimals=1)
PARAMS = {"calibration_split": "train", "evaluation_split": "test", "rho": 0.07}


def measured(folder: Path) -> tuple[dict[str, Path], list[Path], list[Path]]:
    """A study of data efficiency, the scores of floor and ceiling, and the study's record."""
    rows = [
        ("", k, "mini-x", method, task, seed, k, *toy.marked(right + k + seed, 100))
        for method, right in (("adamerging", 50), ("distillation", 60), ("samerging", 61))
        for k in (1, 4)
        for seed in SEEDS
        for task in TASKS
    ]
    store.write_csv(folder / "efficiency.csv", SCORES, rows)
    fixed = []
    for method, right in (("zeroshot", 30), ("individual", 90)):
        fixed.append(folder / f"{method}.csv")
        store.write_csv(fixed[-1], HEADER, [("mini-x", method, task, None, 0, right, 100) for task in TASKS])
    store.write_json(folder / "record.json", {"params": PARAMS})
    return {"efficiency": folder / "efficiency.csv"}, fixed, [folder / "record.json"]


def test_the_page_and_all_that_it_links_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(methods.load("adamerging"), "TITLE", "<script>A & e</script>")
    given = measured(tmp_path)
    for name in ("one", "two"):
        write(*given, toy.ROOT / "pipeline/templates", LOOK, tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    html = files["index.html"].decode()
    page = Parsed(html)
    assert len(page.ids) == len(set(page.ids))
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    assert anchors <= set(page.ids)
    linked = {link for link in page.links if not link.startswith(("#", "https://arxiv.org/abs/"))}
    assert linked == files.keys() - {"index.html", "sentences.md"} | {"../../index.html"}
    assert files["efficiency.csv"] == (tmp_path / "efficiency.csv").read_bytes()
    assert "&lt;script&gt;A &amp; e" in html
    assert html.count("<script") == 1
    assert files["sentences.md"].decode().startswith("### ")


def test_studies_that_ran_with_other_parameters_are_not_shown_together(tmp_path: Path):
    found, fixed, records = measured(tmp_path)
    store.write_json(tmp_path / "other.json", {"params": PARAMS | {"rho": 0.1}})
    with pytest.raises(BenchmarkError, match=r"stages ran with rho = 0\.07 and 0\.1; run dvc repro"):
        write(
            found, fixed, [*records, tmp_path / "other.json"], toy.ROOT / "pipeline/templates", LOOK, tmp_path / "out"
        )


def test_answers_that_look_like_numbers_stay_as_they_are(tmp_path: Path):
    path = tmp_path / "efficiency.csv"
    rights = ["0080", "1e05", "70"]
    store.write_csv(path, SCORES, [("", 1, "x", "ties", "a", 0, 1, 1, 9, right) for right in rights])
    assert _report._rows(path).right.tolist() == rights


def test_every_study_has_its_place_on_the_page():
    assert sorted(STUDIES) == sorted(names())
    for study in STUDIES:
        assert (toy.ROOT / f"pipeline/studies/views/{study}.py").exists()
        declared = (toy.ROOT / f"stages/studies/{study}.py").read_text()
        assert data(study, "{suite}") in declared
    assert _report.SEVERAL == ("landscape",)
