"""The README says what the files say."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import RESULTS, readme
from pipeline.audit import readme as audited
from pipeline.audit.repository import gather


def test_sections_of_numbers_are_those_of_the_files():
    text = (readme.ROOT / "README.md").read_text("utf-8")
    assert readme.replaced(text) == text
    for name, content in readme.sections().items():
        assert len(content) > 500, name
        assert content in text


def test_every_kind_of_benchmark_has_a_result():
    kinds = {path.name.split("-")[0] for path in RESULTS.glob("*.json")}
    assert kinds >= {"calibration_step", "evaluation", "data_free", "growth", "full_size"}


@pytest.fixture
def front(tmp_path: Path) -> Path:
    """The README and the sentences that it cites."""
    for path in ("README.md", f"reports/studies/{readme.SUITE}/sentences.md"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.ROOT / path, tmp_path / path)
    return tmp_path


def wrong(root: Path) -> tuple[str, ...]:
    evidence = gather(root)
    return audited.check(evidence, evidence, [readme.SUITE]).wrong


def test_numbers_on_studies_stand_in_the_sentences_that_are_cited(front: Path):
    assert wrong(front) == ()
    path = front / "README.md"
    text = path.read_text("utf-8")
    points = text[text.index("## What the studies say") : text.index("<details><summary>Every sentence")]
    found = [match for match in re.finditer(r"\d+\.\d+", points)]
    caught = 0
    for match in found:
        last = points[match.end() - 1]
        other = points[: match.end() - 1] + str((int(last) + 1) % 10) + points[match.end() :]
        path.write_text(text.replace(points, other), "utf-8")
        caught += any("is not in the sentences on" in one for one in wrong(front))
    assert len(found) > 30
    assert caught > 0.8 * len(found)


def test_a_point_names_the_sentences_that_it_is_from(front: Path):
    path = front / "README.md"
    path.write_text(path.read_text("utf-8").replace("*Robustness*", "*Elsewhere*"), "utf-8")
    assert "names no part of the studies: Elsewhere" in wrong(front)[0]
