"""What the page says of methods, measures and files."""

import numpy as np
import pandas as pd
from pipeline.sections import anchor, files, methods, predictions, report

from pipeline.report.evidence import Reference
from pipeline.report.page import Entries, Link

REFERENCES = {
    "ties": Reference("TIES", "arXiv 2306.01708", "", ()),
    "nan": Reference("NAN †", "arXiv 2505.16148", "the norm", ()),
}


def test_methods_are_cited_and_our_reading_is_named():
    (entries,) = methods(REFERENCES).blocks
    assert isinstance(entries, Entries)
    assert [(one.id, one.title, one.name, one.source) for one in entries.entries] == [
        ("method-ties", "TIES", "ties", "arXiv 2306.01708"),
        ("method-nan", "NAN †", "nan", "arXiv 2505.16148"),
    ]
    assert [one.note for one in entries.entries] == ["", "Our reading: the norm."]
    assert entries.entries[0].id == anchor("ties")


def test_the_report_ends_with_the_methods_and_has_no_sister_page():
    page = report([], REFERENCES)
    assert [section.title for section in page.sections] == ["Methods"]
    assert page.links == ()


def test_links_to_files_are_relative_to_the_page():
    assert files("tables", "mini-8", ("csv", "tex")) == (
        Link("CSV", "tables/mini-8.csv"),
        Link("LaTeX", "tables/mini-8.tex"),
    )


def test_predictions_have_a_section_per_scope_and_name_their_measures():
    rows = [("tasks", "mloss", 0.5, -0.25), ("tasks", "size", np.nan, np.nan), ("subsets", "sar", -1.0, -1.0)]
    found = pd.DataFrame(rows, columns=["scope", "measure", "rho", "low"])
    found = found.assign(method="average", high=0.75, task_low=0.125, task_high=1.0)
    table = predictions(found)
    shown = [(scope, name, *(cell.mean for cell in cells)) for scope, rows in table.sections for name, cells in rows]
    assert shown == [
        ("tasks", "M-Loss", "simple average", "+0.50", "−0.25", "+0.75", "+0.12", "+1.00"),
        ("tasks", "number of tasks", "simple average", "–", "–", "+0.75", "+0.12", "+1.00"),
        ("subsets", "subspace alignment ratio", "simple average", "−1.00", "−1.00", "+0.75", "+0.12", "+1.00"),
    ]
    assert len(table.columns) == len(shown[0]) - 2
