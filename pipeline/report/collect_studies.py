"""data/ -> the evidence of a suite's studies, as committed files that need neither torch nor data/ to be read.

    reports/evidence/studies/<suite>/
        scores.csv      counts of right answers of zero-shot and of the experts
        titles.json     {method: its title}
        clusters.npz    of examples that are not independent, as in `pipeline.report.evidence`
        <study>/        the tables that the study wrote, and records.json, its run record: {path in data/: its content}

`pipeline.report.studies` reads them.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from pipeline.report.evidence import format_csv
from pipeline.runtime import store
from pipeline.statistics.accuracy import parse_scores


def collect_study(rows: Path, record: Path, output: Path) -> None:
    """Write the evidence of a study; rows: the folder of tables that it wrote, record: its run record."""
    for path in sorted(rows.glob("*.csv")):
        store.write_text(output / path.name, store.read_text(path))
    store.write_json(output / "records.json", {f"data/studies/runs/{record.name}": store.read_json(record)})


def collect_context(fixed: Iterable[Path], clusters: Path, titles: Mapping[str, str], outputs: Sequence[Path]) -> None:
    """Write what all studies share.

    fixed: the scores of zero-shot and of the experts; clusters: of the suite's examples; titles: of all methods;
    outputs: scores, titles and clusters.
    """
    scores, names, kept = outputs
    store.write_text(scores, format_csv(pd.concat(parse_scores(store.read_text(path), path) for path in fixed), None))
    store.write_json(names, titles)
    store.write_arrays(kept, store.read_arrays(clusters), compress=True)
