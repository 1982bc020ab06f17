"""Print experiments: changed parameters, and the numbers of metrics.json. Not a stage; run by `make compare`."""

from pathlib import Path

import pandas as pd
from dvc.api import exp_show

from pipeline.runtime import store

NAMES = {
    "samerging": "SAMerging", "gap_closed": "gap closed", "minus_distillation": "- distill.",
    "minus_adamerging": "- AdaM.", "best_data_free": "data-free", "experts": "experts",
}  # fmt: skip
"""The numbers of metrics.json and the names of their columns."""
LONGEST = 24  # characters of a parameter; longer lists are counted


def main() -> None:
    """Print a row per experiment, at most 100 columns wide; a parameter has a column if its values differ."""
    rows = pd.DataFrame(exp_show())
    suites = store.read_json(Path("reports/metrics.json"))
    metrics = {
        f"{suite}.{name}": NAMES[name] if len(suites) == 1 else f"{suite} {NAMES[name]}"
        for suite, numbers in suites.items()
        for name in numbers
        if f"{suite}.{name}" in rows
    }
    params = pd.json_normalize(store.read_yaml(Path("params.yaml")))
    changed = [key for key in params if key in rows and rows[key].astype(str).nunique() > 1]
    table = rows[[*changed, *metrics]].map(_abbreviate).rename(columns=metrics)
    table.index = pd.Index(rows.Experiment.fillna(rows.rev).to_list())
    print(table.to_string(na_rep="", float_format="{:.2f}".format, line_width=100))


def _abbreviate(value: object) -> object:
    return f"{value.count(',') + 1} values" if isinstance(value, str) and len(value) > LONGEST else value


if __name__ == "__main__":
    main()
