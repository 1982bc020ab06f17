"""Print the experiments of this branch: changed parameters, and the numbers of metrics.json. No stage of the pipeline:
`make compare`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import exp_show

from pipeline import store

NAMES = {
    "samerging": "SAMerging",
    "gap_closed": "gap closed",
    "minus_distillation": "- distill.",
    "minus_adamerging": "- AdaM.",
    "best_data_free": "data-free",
    "experts": "experts",
}
"""The numbers of metrics.json and what their columns are called."""


def main() -> None:
    """Print a row per experiment; a parameter has a column where its values differ."""
    rows = pd.DataFrame(exp_show())
    metrics = {
        f"{suite}.{name}": NAMES[name] if suite == "mini-8" else f"{suite} {NAMES[name]}"
        for suite, numbers in store.read_json(Path("reports/metrics.json")).items()
        for name in numbers
    }
    keys = [key for key in flatten(store.read_yaml(Path("params.yaml"))) if key in rows]
    changed = [key for key in keys if rows[key].astype(str).nunique() > 1]
    table = rows[[*changed, *metrics]].rename(columns=metrics)
    table.index = rows.Experiment.fillna(rows.rev)
    print(table.to_string(na_rep="", float_format="{:.2f}".format))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all leaves."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


if __name__ == "__main__":
    main()
