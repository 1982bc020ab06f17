"""The sections of the page on methods and on the prediction of losses."""

import numpy as np
import pandas as pd

from pipeline.report.collect import NAMES
from pipeline.report.evidence import Reference
from pipeline.report.page import Entries
from pipeline.report.render import methods_section
from pipeline.report.views.diagnosis import prediction_table

REFERENCES = {
    "ties": Reference("TIES", "arXiv 2306.01708", "", ()),
    "nan": Reference("NAN †", "arXiv 2505.16148", "the norm", ()),
}


def test_methods_are_cited_and_our_reading_is_named():
    (entries,) = methods_section(REFERENCES).blocks
    assert isinstance(entries, Entries)
    assert [(entry.id, entry.title, entry.name, entry.source) for entry in entries.entries] == [
        ("method-ties", "TIES", "ties", "arXiv 2306.01708"),
        ("method-nan", "NAN †", "nan", "arXiv 2505.16148"),
    ]
    assert [entry.note for entry in entries.entries] == ["", "Our reading: the norm."]


def test_predictions_have_a_section_per_scope_and_name_their_measures():
    rows = [("tasks", "mloss", 0.8, -0.25), ("tasks", "size", np.nan, np.nan), ("subsets", "sar", -1.0, -1.0)]
    predictions = pd.DataFrame(rows, columns=["scope", "measure", "rho", "low"])
    predictions = predictions.assign(method="average", high=0.75, task_low=0.125, task_high=1.0, n=4)
    table = prediction_table(predictions, NAMES)
    cell_rows = [
        (scope, name, *(cell.mean for cell in cells)) for scope, rows in table.sections for name, cells in rows
    ]
    assert cell_rows == [
        ("tasks", "M-Loss", "simple average", "+0.80", "0.33", "–", "–", "–", "–"),
        ("tasks", "number of tasks", "simple average", "–", "–", "–", "–", "–", "–"),
        ("subsets", "subspace alignment ratio", "simple average", "−1.00", "–", "−1.00", "+0.75", "+0.12", "+1.00"),
    ]
    assert len(table.columns) == len(cell_rows[0]) - 2
