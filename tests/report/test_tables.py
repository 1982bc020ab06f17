"""Tables in Markdown, LaTeX and CSV, their ranks, captions and escapes."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from pipeline.report.evidence import Protocol
from pipeline.report.tables import Cell, Table, build_table, escape, latex, markdown, ranks
from pipeline.report.views.tasks import accuracy_csv

PROTOCOL = Protocol("mini-8", "train", "test", 1600, {"a": 1600, "b": 1097}, (0, 1), True)
TITLES = {"zeroshot": "Zero-shot", "x_1": "X & <Y>|_1", "y": "Y"}
GROUPS = {"Floor": ["zeroshot"], "Data-free": [], "Merged": ["x_1", "y"]}
INDEX = pd.MultiIndex.from_tuples([("zeroshot", -1), ("x_1", 0), ("x_1", 1), ("y", -1)], names=["method", "seed"])
RUNS = pd.DataFrame({"a": [90.0, 50, 52, 60], "Average": [90.0, 50, 52, 51.04], "Worst task": [1.0, 2, 3, 4]}, INDEX)
TABLE = build_table(RUNS, GROUPS, TITLES, 1, "A_B: 5 %")


def test_golden_markdown():
    assert markdown(TABLE) == (
        "| Method | a | Average |\n"
        "| :-- | --: | --: |\n"
        "| *Floor* |  |  |\n"
        "| Zero-shot | 90.0 | 90.0 |\n"
        "| *Merged* |  |  |\n"
        "| X & \\<Y\\>\\|\\_1 | <u>51.0</u> ± 1.4 | **51.0** ± 1.4 |\n"
        "| Y | **60.0** | **51.0** |\n"
        "\nA\\_B: 5 %\n"
    )


def test_golden_latex():
    assert latex(TABLE, "s").splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\setlength{\belowcaptionskip}{6pt}",
        r"\caption{A\_B: 5 \%}",
        r"\label{tab:s}",
        r"\setlength{\tabcolsep}{3pt}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"Method & a & Average \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\emph{Floor}} \\",
        r"Zero-shot & 90.0 & 90.0 \\",
        r"\midrule",
        r"\multicolumn{3}{l}{\emph{Merged}} \\",
        r"X \& \textless{}Y\textgreater{}\textbar{}\_1 & \underline{51.0} {\scriptsize$\pm$\,1.4} & "
        r"\textbf{51.0} {\scriptsize$\pm$\,1.4} \\",
        r"Y & \textbf{60.0} & \textbf{51.0} \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]


def numeric_table(count):
    """Make a table of `count` columns, ten characters each."""
    cells = tuple(Cell(f"c{index}", "0.1", "") for index in range(count))
    return Table("Caption", tuple(f"h{index:08}" for index in range(count)), (("S", (("row", cells),)),))


@pytest.mark.parametrize(
    ("count", "kind", "sizes"),
    [(4, "table", [4]), (5, "table*", [5]), (11, "table*", [11]), (12, "table*", [6, 6]), (25, "table*", [8, 8, 9])],
)
def test_latex_of_wide_tables_spans_the_page_and_is_split(count, kind, sizes):
    text = latex(numeric_table(count), "s")
    assert re.findall(r"\\begin\{(table\*?)\}", text) == re.findall(r"\\end\{(table\*?)\}", text) == [kind] * len(sizes)
    assert [len(sides) - 1 for sides in re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)] == sizes
    for pattern in (r"\bh(\d+)", r"\bc(\d+)"):
        assert [int(index) for index in re.findall(pattern, text)] == list(range(count)), "each column once"
    assert text.count(r"row &") == len(sizes)
    assert text.count(r"\caption{Caption}") == text.count(r"\label{tab:s}") == 1
    assert text.count("(continued)") == text.count(r"\addtocounter{table}{-1}") == len(sizes) - 1


def test_golden_csv():
    assert accuracy_csv(RUNS[["a", "Average"]], GROUPS, TITLES) == (
        "method,title,group,runs,a,a std,Average,Average std\n"
        "zeroshot,Zero-shot,Floor,1,90.000000,,90.000000,\n"
        "x_1,X & <Y>|_1,Merged,2,51.000000,1.414214,51.000000,1.414214\n"
        "y,Y,Merged,1,60.000000,,51.040000,\n"
    )


def test_undefined_values_are_dashes():
    table = build_table(RUNS.assign(a=float("nan")), GROUPS, TITLES, 1, "")
    assert "| Y | – | **51.0** |" in markdown(table)
    assert r"Y & -- & \textbf{51.0}" in latex(table, "s")


def test_negative_numbers_have_a_minus():
    table = build_table(RUNS.assign(a=-400.0), GROUPS, TITLES, 1, "")
    assert "| Y | **−400.0** |" in markdown(table)
    assert r"Y & \textbf{$-$400.0} &" in latex(table, "s")


def test_latex_is_balanced_for_hostile_names():
    hostile = dict.fromkeys(TITLES, r"}{\&%$#_~^")
    text = re.sub(r"\\[{}&%$#_]", "", latex(build_table(RUNS, GROUPS, hostile, 1, hostile["y"]), "s"))
    assert text.count("{") == text.count("}")
    assert text.count("$") % 2 == 0
    assert not re.search(r"[#~^_]", text)
    assert all(line.count("&") in (0, 2) for line in text.splitlines())


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 2, 1], {"m0": "best", "m1": "second"}),
        ([3, 3, 2], {"m0": "best", "m1": "best"}),
        ([3, 2, 2], {"m0": "best", "m1": "second", "m2": "second"}),
        ([float("nan"), 1, 2], {"m1": "second", "m2": "best"}),
        ([], {}),
    ],
)
def test_ranks(values, expected):
    assert ranks(pd.Series(values, index=[f"m{i}" for i in range(len(values))], dtype=float)) == expected


def test_the_caption_states_the_protocol():
    caption = PROTOCOL.caption()
    assert "embedded" in caption
    assert "not the paper's benchmark" in caption
    assert "Scored on the test split" in caption
    assert (
        "draw from up to 1,600 unlabelled examples per task (k capped at the pool: b 1,097) of the train split"
        in caption
    )
    assert "2 seeds (0, 1)" in caption
    assert "TRANSDUCTIVE" not in caption


def test_caption_of_the_transductive_protocol_and_of_one_seed():
    protocol = Protocol("mini-like", "test", "test", 16, {"a": 16}, (3,), False)
    caption = protocol.caption()
    assert "TRANSDUCTIVE" in caption
    assert "1 seed (3)" in caption
    assert "embedded" not in caption
    assert "capped" not in caption
    assert "±" not in caption
    assert protocol.sees(16) == "test examples without labels, 16 per task"


def test_the_caption_says_where_accuracy_is_agreement():
    protocol = replace(PROTOCOL, unlabelled=("b",))
    assert "NO LABELS: accuracy on b is the agreement with the expert." in protocol.caption()
    assert "NO LABELS" not in PROTOCOL.caption()


def test_a_caption_ends_with_the_sentence_on_anchors():
    assert PROTOCOL.caption("Anchors: none.") == f"{PROTOCOL.caption()} Anchors: none."


def test_the_protocol_describes_the_examples_seen_by_calibrated_methods():
    assert PROTOCOL.sees(1600) == "training examples without labels, up to 1,600 per task; mean over 2 seeds"
    assert PROTOCOL.sees(256) == "training examples without labels, 256 per task; mean over 2 seeds"


def test_columns_of_words_are_left_aligned_and_escaped():
    cells = (Cell("−1.0", "", ""), Cell("a_b|c", "", ""))
    table = Table("", ("x", "why"), (("S", (("n", cells),)),), "Task", ("why",))
    assert markdown(table).splitlines()[:4] == [
        "| Task | x | why |",
        "| :-- | --: | :-- |",
        "| *S* |  |  |",
        "| n | −1.0 | a\\_b\\|c |",
    ]
    assert r"Task & x & why \\" in latex(table, "s")
    assert r"\begin{tabular}{lrl}" in latex(table, "s")


def test_escape_leaves_no_special_character():
    assert escape("λ of θ − ρ") == r"$\lambda$ of $\theta$ $-$ $\rho$"
    assert escape(r"a\b{c}_$&%#~^<>|±") == (
        r"a\textbackslash{}b\{c\}\_\$\&\%\#\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}$\pm$"
    )


def test_a_table_without_sections_has_no_empty_headings():
    rows = [("a", (Cell("1", "", ""),)), ("b", (Cell("2", "", ""),))]
    table = Table("Caption.", ("x",), (("", tuple(rows)),))
    assert markdown(table).startswith("| Method | x |\n| :-- | --: |\n| a | 1 |\n| b | 2 |\n\n")
    assert "emph" not in latex(table, "label")
