"""The README says what the files say."""

from benchmarks import readme
from benchmarks.measure import RESULTS


def test_sections_of_numbers_are_those_of_the_files():
    text = (readme.ROOT / "README.md").read_text("utf-8")
    assert readme.replaced(text) == text
    for name, content in readme.sections().items():
        assert len(content) > 500, name
        assert content in text


def test_every_kind_of_benchmark_has_a_result():
    kinds = {path.name.split("-")[0] for path in RESULTS.glob("*.json")}
    assert kinds >= {"calibration_step", "evaluation", "data_free", "growth", "full_size"}
