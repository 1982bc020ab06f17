"""`make compare`: experiments side by side, with only what changed."""

import json
from pathlib import Path

import pytest

from stages import compare

NUMBERS = {"samerging": 88.19, "gap_closed": 87.97, "experts": 93.97}


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The rows that DVC returns for a workspace and an experiment."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("rho: 0.07\nmerge:\n  ties: {scale: 0.3}\nseeds: [0, 1]\n")
    Path("reports").mkdir()
    Path("reports/metrics.json").write_text(json.dumps({"mini-8": NUMBERS}))
    common = {"merge.ties.scale": 0.3, "seeds": "[0, 1]", "data/runs/x.json:seconds": 1.0}
    records = [
        {"Experiment": None, "rev": "workspace", "rho": 0.07, **common},
        {"Experiment": "other-rho", "rev": "abc", "rho": 0.05, **common},
    ]
    for index, row in enumerate(records):
        row |= {f"mini-8.{name}": value + index for name, value in NUMBERS.items()}
    monkeypatch.setattr(compare, "exp_show", lambda: records)
    return records


def test_a_row_per_experiment_with_what_changed(rows: list[dict], capsys: pytest.CaptureFixture):
    compare.main()
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["rho", "SAMerging", "gap", "closed", "experts"]
    assert [line.split() for line in lines] == [
        ["workspace", "0.07", "88.19", "87.97", "93.97"],
        ["other-rho", "0.05", "89.19", "88.97", "94.97"],
    ]
    assert max(map(len, [header, *lines])) <= 100


def test_a_number_that_no_experiment_has_is_left_out(rows: list[dict], capsys: pytest.CaptureFixture):
    for row in rows:
        del row["mini-8.gap_closed"]
    compare.main()
    assert "gap closed" not in capsys.readouterr().out


def test_long_lists_are_counted_and_no_line_is_too_long(rows: list[dict], capsys: pytest.CaptureFixture):
    keys = [f"a_parameter_with_a_long_name_{index}" for index in range(4)]
    Path("params.yaml").write_text("".join(f"{key}: 0\n" for key in ("seeds", *keys)))
    for index, row in enumerate(rows):
        row |= {"seeds": str([*range(20 + index)]), **dict.fromkeys(keys, index)}
    compare.main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    text = "\n".join(lines)
    assert all(word in text for word in ("20 values", "21 values", *keys, "experts", "other-rho"))
