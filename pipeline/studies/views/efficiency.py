"""Data efficiency in the report: accuracy against the number of unlabelled images."""

import pandas as pd

from pipeline.studies.views import Context, View


def view(rows: pd.DataFrame, context: Context) -> View:
    """`rows`: the study's scores."""
    raise NotImplementedError
