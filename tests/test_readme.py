"""The README says what the files say."""

from benchmarks import readme
from tests import toy


def test_performance_section_is_generated_from_the_results():
    text = (toy.ROOT / "README.md").read_text("utf-8")
    between = text.split(readme.BEGIN)[1].split(readme.END)[0]
    assert between.strip() == readme.section().strip()
    assert len([*readme.RESULTS.glob("*.json")]) >= 5
    kinds = {"calibration_step", "evaluation", "data_free", "growth", "full_size"}
    assert {path.name.split("-")[0] for path in readme.RESULTS.glob("*.json")} >= kinds
