"""All methods at a glance: averages, what they cost, what they used."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.report.evidence import MARK, Evidence
from pipeline.report.tables import Cell, Table, build_table, group_rows, summarise
from pipeline.report.view import Look, Sheet, View
from pipeline.statistics.accuracy import AVERAGE, GAP, NORMALISED, WORST

ORDER = 20


def view(evidence: Evidence, look: Look) -> View:
    """Show the table; on the page, how long each merge took as well."""
    lasting, timed = (overview_table(evidence, look.decimals, clock) for clock in (False, True))
    return View(tables={"overview": Sheet(lasting, "All methods at a glance", page=timed)})


def overview_table(evidence: Evidence, decimals: int, clock: bool) -> Table:
    """Build a row per method; with `clock`, how long the stage that merged took."""
    titles = evidence.titles
    marked = f" {MARK} Our reading: what could not be checked stands in the list of methods." * any(
        title.endswith(MARK) for title in titles.values()
    )
    caption = (
        f"Suite {evidence.suite}: {evidence.protocol.sentence()} Scale from KL: the average accuracy when the scale of "
        "the merge is not the published one but the one at which experts and merged model agree most on unlabelled "
        "calibration examples. Examples: unlabelled examples per task, at most; a method that takes steps sees no more "
        "than its steps times the size of a batch. Extra: bytes needed at inference "
        "beside one encoder and the zero-shot heads, in % of the encoder. FLOPs: of an example, over the encoder's."
        f"{' Seconds: of the stage that merged, all seeds and the start of Python included.' * clock}{marked}"
    )
    averages = evidence.runs[[AVERAGE, NORMALISED, GAP, WORST]]
    summary = build_table(averages, evidence.sections, titles, decimals, caption, keep=(WORST,))
    rescaled = summarise(evidence.rescaled[[AVERAGE]])
    methods = [method for names in evidence.sections.values() for method in names]
    rows = {}
    for method, (title, means) in zip(methods, (row for _, part in summary.sections for row in part), strict=True):
        known = method in rescaled.means.index
        texts = [f"{evidence.samples[method]:,}", *_prices(evidence.costs[method], decimals)]
        texts += [f"{evidence.seconds[method]:.1f}"] if clock else []
        scaled = rescaled.cell(method, AVERAGE, decimals) if known else Cell("–")
        rows[method] = (title, (*means, scaled, *map(Cell, texts)))
    columns = (*summary.columns, "Scale from KL", "Examples", "Extra, %", "FLOPs, ×", *["Seconds"] * clock)
    return Table(caption, columns, group_rows(evidence.sections, rows))


def _prices(cost: Mapping[str, Any], decimals: int) -> tuple[str, str]:
    """Return the bytes held besides one encoder, in % of it, and the operations of an example over the encoder's."""
    held = cost["extra_bytes"] or (cost["encoders"] - 1) * cost["encoder_bytes"]
    work = np.mean([*cost["flops"].values()]) / cost["plain_flops"]
    return f"{100 * held / cost['encoder_bytes']:.{decimals}f}", f"{work:.2f}"
