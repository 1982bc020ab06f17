"""All methods at a glance: averages, what they cost, what they used."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report.evidence import Evidence
from pipeline.report.tables import Cell, Table, build, number, statistics
from pipeline.report.view import Look, Sheet, View
from pipeline.statistics.accuracy import AVERAGE, GAP, NORMALISED, WORST

ORDER = 20
MARK = "†"


def view(evidence: Evidence, look: Look) -> View:
    """The table; on the page, how long each merge took as well."""
    lasting, timed = (table(evidence, look.decimals, clock) for clock in (False, True))
    return View(tables={"overview": Sheet(lasting, "All methods at a glance", page=timed)})


def table(evidence: Evidence, decimals: int, clock: bool) -> Table:
    """A row per method; with `clock`, how long the stage that merged took."""
    titles = evidence.titles
    marked = f" {MARK} Our reading: what could not be checked stands in the list of methods." * any(
        title.endswith(MARK) for title in titles.values()
    )
    caption = (
        f"Suite {evidence.suite}: {evidence.protocol.sentence()} Scale from KL: the average accuracy when the scale of "
        "the merge is not the published one but the one at which experts and merged model agree most on unlabelled "
        "calibration images. Images: unlabelled images per task, at most. Extra: bytes needed at inference beside one "
        "image encoder and the zero-shot heads, in % of the encoder. FLOPs: of an image, over the encoder's."
        f"{' Seconds: of the stage that merged, all seeds and the start of Python included.' * clock}{marked}"
    )
    averages = evidence.runs[[AVERAGE, NORMALISED, GAP, WORST]]
    summary = build(averages, evidence.sections, titles, decimals, caption, keep=(WORST,))
    rescaled = statistics(evidence.rescaled[[AVERAGE]]) if len(evidence.rescaled) else None

    def cells(method: str) -> tuple[Cell, ...]:
        used = f"{evidence.samples[method]:,}"
        texts = [used, *_prices(evidence.costs[method], decimals)]
        if clock:
            texts.append(f"{evidence.seconds[method]:.1f}")
        return (_rescaled(rescaled, method, decimals), *(Cell(text, "", "") for text in texts))

    columns = ("Scale from KL", "Images", "Extra, %", "FLOPs, ×", *["Seconds"] * clock)
    order = [methods for methods in evidence.sections.values() if methods]
    sections = tuple(
        (title, tuple((name, (*means, *cells(method))) for (name, means), method in zip(rows, methods, strict=True)))
        for (title, rows), methods in zip(summary.sections, order, strict=True)
    )
    return Table(caption, (*summary.columns, *columns), sections)


def _prices(cost: Mapping[str, Any], decimals: int) -> tuple[str, str]:
    """Bytes held beside one encoder, in % of it; operations of an image over the encoder's."""
    held = cost["extra_bytes"] or (cost["encoders"] - 1) * cost["encoder_bytes"]
    work = np.mean([*cost["flops"].values()]) / cost["plain_flops"]
    return f"{100 * held / cost['encoder_bytes']:.{decimals}f}", f"{work:.2f}"


def _rescaled(averages: pd.DataFrame | None, method: str, decimals: int) -> Cell:
    if averages is None or method not in averages.index:
        return Cell("–", "", "")
    mean, deviation, _ = averages.loc[method, AVERAGE]
    return Cell(number(mean, decimals), f"{deviation:.{decimals}f}" if np.isfinite(deviation) else "", "")
