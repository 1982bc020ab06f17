"""Results -> every file of reports/ that is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import (
    anchors,
    answers,
    claims,
    figures,
    heatmaps,
    page,
    profiles,
    sections,
    statistics,
    store,
    tables,
    tidy,
    verdict,
)
from pipeline.records import records
from pipeline.references import MARK, Reference, refer
from pipeline.results import Chosen, Results, on_top, parameters, read
from pipeline.scores import AVERAGE, CEILING, FLOOR, GAP, MAIN
from pipeline.sections import Drawing, Tabled


def draw(
    results: Results, resampled: statistics.Resampled, chosen: Chosen, titles: Mapping[str, str], width: float
) -> dict[str, Drawing]:
    """{name: figure, what is said of it, and what it shows}."""
    looks, runs, protocol = figures.styles(titles), results.runs, results.protocol.sentence()
    means = runs.groupby("method")[list(results.tasks)].mean()
    splits = f"{results.protocol.calibration_split} images"
    seeds = f"{len(results.protocol.seeds)} seed{'s' * (len(results.protocol.seeds) != 1)}"
    measures = results.measures
    return {
        "accuracy": Drawing(
            "Accuracy of every method",
            figures.accuracies(means, chosen.sections(results.several), titles, width),
            f"Accuracy of every method: a dot per task, a bar at their mean, best first; methods with randomness: mean "
            f"over their seeds. {protocol}",
            tidy.accuracies(means),
        ),
        **_profiles(results, resampled, chosen, titles, width),
        "coefficients": Drawing(
            f"Coefficients of {titles[MAIN]}",
            figures.coefficients(results.coefficients, results.tasks, results.groups, width),
            f"Coefficients of {titles[MAIN]} per task and tensor of the image tower, mean over {seeds}, calibrated on "
            f"{splits}; numbers are transformer blocks, in and out what lies before and after them. Biases of k, on "
            "which no output depends, are left out.",
            tidy.coefficients(results.coefficients, results.tasks, results.groups),
        ),
        "losses": Drawing(
            "Losses",
            figures.losses(results.losses, looks, width),
            f"Loss of the batch before each step, on {splits}; mean and range over {seeds}. Each method has its own "
            "objective, unit and scale.",
            tidy.losses(results.losses),
        ),
        "mloss": Drawing(
            "M-Loss",
            heatmaps.mloss(measures, results.tasks, width),
            f"M-Loss (arXiv 2602.08564) at the first matrix of each block's MLP, on unlabelled {splits}: how far "
            "averaging the experts' weights is from averaging their answers there; and as a share of the answers.",
            heatmaps.shown_mloss(measures),
        ),
        "cosines": Drawing(
            "Cosines between task vectors",
            heatmaps.cosines(measures, results.tasks, width),
            "Cosines between the task vectors, over the whole model.",
            heatmaps.shown_cosines(measures),
        ),
        "transfer": Drawing(
            "Every expert on every task",
            heatmaps.transfer(measures, results.tasks, width),
            "Accuracy of every expert on every task before merging, on labelled validation images: a diagnosis that no "
            "method sees.",
            heatmaps.shown_transfer(measures),
        ),
        "images": Drawing(
            "Images",
            figures.contact_sheet(results.images, width),
            "The first images of each task's test split.",
        ),
    }


def _profiles(
    results: Results, resampled: statistics.Resampled, chosen: Chosen, titles: Mapping[str, str], width: float
) -> dict[str, Drawing]:
    """The figure of performance profiles; without the experts there is none."""
    if CEILING not in resampled.observed:
        return {}
    groups = chosen.sections(results.several)
    shown = profiles.choose(results.runs.groupby("method")[AVERAGE].mean(), [groups["Data-free"], groups["Calibrated"]])
    caption = (
        f"Performance profiles: share of runs (a seed and one of {len(results.tasks)} tasks) with more than a share of "
        f"the accuracy of the task's expert; higher is better. Bands: 95 % bootstrap intervals, test images of every "
        f"task and seeds drawn. Of the merges that are one model: the usual ones, and the best with and without data. "
        f"{results.protocol.sentence()}"
    )
    looks = figures.styles({name: titles[name] for name in shown})
    shares = profiles.measure(resampled, shown)
    return {"profiles": Drawing("Performance profiles", profiles.profiles(shares, looks, width), caption, shares)}


def write(inputs: Sequence[Path], suites: Sequence[str], chosen: Chosen, look: Any, outputs: Sequence[Path]) -> None:
    """Write everything.

    inputs: the folders of `pipeline.results.read`, then that of `pipeline.page.render`; look: dpi, width, decimals;
    outputs: as stages/report.py.
    """
    *measured, templates = inputs
    tabled, drawn, plotted, kept, metrics, index, recorded = outputs
    references = refer(chosen)
    titles = {name: one.title for name, one in references.items()}
    found = [read(measured, suite, chosen) for suite in suites]
    parts = []
    for results in found:
        suite, runs, groups = results.suite, results.runs, chosen.sections(results.several)
        store.write_text(kept / f"{suite}.csv", tidy.csv(results.scored))
        store.write_arrays(kept / f"{suite}-answers.npz", answers.pack(results.correct), compress=True)
        resampled = statistics.resample({name: results.correct[name] for name in chosen.names}, results.drawn)
        compared = claims.compare(resampled)
        anchored, published = _published(results, chosen, references, look.decimals)
        beside = {
            "comparisons": (
                f"{titles[MAIN]} against every method",
                claims.table(resampled, compared, groups, titles, look.decimals, suite),
                claims.csv(resampled, compared, results.tasks, groups, titles),
            ),
            **published,
        }
        table = tables.build(runs, groups, titles, look.decimals, results.protocol.caption(anchored))
        store.write_text(tabled / f"{suite}.csv", tables.csv(runs, groups, titles))
        store.write_text(tabled / f"{suite}.md", tables.markdown(table))
        store.write_text(tabled / f"{suite}.tex", tables.latex(table, suite))
        for name, (_, other, text) in beside.items():
            store.write_text(tabled / f"{suite}-{name}.csv", text)
            store.write_text(tabled / f"{suite}-{name}.md", tables.markdown(other))
        store.write_text(tabled / f"{suite}-measures.csv", tidy.csv(results.measures))
        store.write_text(tabled / f"{suite}-prediction.csv", tidy.csv(results.predictions))
        lasting, timed = (_overview(results, groups, titles, look.decimals, clock) for clock in (False, True))
        store.write_text(tabled / f"{suite}-overview.md", tables.markdown(lasting))
        store.write_text(tabled / f"{suite}-overview.tex", tables.latex(lasting, f"{suite}-overview"))
        drawings = draw(results, resampled, chosen, titles, look.width)
        for name, drawing in drawings.items():
            for kind in figures.FORMATS:
                content = figures.render(drawing.figure, kind, f"{suite}-{name}", look.dpi)
                store.write_bytes(drawn / f"{suite}-{name}.{kind}", content)
            if drawing.data is not None:
                store.write_text(drawn / f"{suite}-{name}.csv", tidy.csv(drawing.data))
        said = claims.sentences(runs, compared, groups["Data-free"], titles, look.decimals)
        diagnosis = verdict.paragraph(results.predictions)
        store.write_text(tabled / f"{suite}-sentences.md", tables.bullets([*said, diagnosis]))
        shown = {
            "overview": Tabled("All methods at a glance", timed, ("md", "tex")),
            "": Tabled("Accuracy on every task", table, ("csv", "md", "tex")),
            **{name: Tabled(title, other, ("csv", "md")) for name, (title, other, _) in beside.items()},
        }
        parts.append(sections.suite(results, said, shown, diagnosis, drawings, references))
    for name, frame in tidy.plots(found).items():
        store.write_text(plotted / f"{name}.csv", tidy.csv(frame))
    store.write_json(recorded, {name: one for results in found for name, one in records(results, chosen).items()})
    store.write_json(metrics, {results.suite: summary(results.runs) for results in found})
    store.write_text(index, page.render(sections.report(parts, references), templates))


def _overview(
    results: Results, groups: Mapping[str, Sequence[str]], titles: Mapping[str, str], decimals: int, clock: bool
) -> tables.Table:
    """The table of all methods; with `clock`, how long each merge took."""
    seconds = results.seconds if clock else None
    beside = tables.Beside(results.rescaled, results.samples, results.costs, seconds)
    marked = f" {MARK} Our reading: what could not be checked stands in the list of methods." * any(
        title.endswith(MARK) for title in titles.values()
    )
    caption = (
        f"Suite {results.suite}: {results.protocol.sentence()} Scale from KL: the average accuracy when the scale of "
        "the merge is not the published one but the one at which experts and merged model agree most on unlabelled "
        "calibration images. Images: unlabelled images per task, at most. Extra: bytes needed at inference beside one "
        "image encoder and the zero-shot heads, in % of the encoder. FLOPs: of an image, over the encoder's."
        f"{' Seconds: of the stage that merged, all seeds and the start of Python included.' * clock}{marked}"
    )
    return tables.overview(results.runs, beside, groups, titles, decimals, caption)


def summary(runs: pd.DataFrame) -> dict[str, Any]:
    """What metrics.json says of a suite: average accuracy per method and SAMerging's gap closed, if it is defined."""
    means = runs.groupby("method")[[AVERAGE, GAP]].mean().round(2)
    gap = means.loc[MAIN, GAP]
    return {"accuracy": means[AVERAGE].to_dict()} | ({f"{MAIN}_gap_closed": gap} if np.isfinite(gap) else {})


def _published(
    results: Results, chosen: Chosen, references: Mapping[str, Reference], decimals: int
) -> tuple[str, dict[str, tuple[str, tables.Table, str]]]:
    """What is said of anchors, and {name: (title, table, CSV)} of what stands beside published accuracies."""
    runs, tasks, split = results.runs, results.tasks, results.protocol.evaluation_split
    compared, beside = anchors.compare(runs, tasks, results.origin["anchors"]), {}
    said = anchors.sentence(compared, split)
    if len(compared) and split == anchors.SPLIT:
        beside["anchors"] = ("Anchors", anchors.anchor_table(compared, said), anchors.anchor_csv(compared))
    if rows := results.origin["published"]:
        own = anchors.ours(runs, tasks, _told(results, chosen, references), split)
        others = anchors.published(rows, tasks)
        table = anchors.published_table(own, others, tasks, decimals, split)
        beside["published"] = ("Published results", table, anchors.published_csv(own, others))
    return said, beside


def _told(results: Results, chosen: Chosen, references: Mapping[str, Reference]) -> dict[str, dict[str, str]]:
    """{method: its name, parameters and protocol}, in the order of the tables."""
    params = parameters(results.suite, results.records)
    learned = (*chosen.calibrated, *map(on_top, chosen.operated))
    sees = dict.fromkeys((FLOOR, CEILING), "not merged")
    sees |= {name: results.protocol.sees(results.samples[name]) for name in learned}
    told = {}
    for name in chosen.names:
        own = {key: params[key] for key in references[name].settings if key in params}
        found = params.get(f"merge.{name}", params.get(f"calibrate.{name}", own))
        settings = ", ".join(f"{key} {value}" for key, value in found.items())
        told[name] = {"method": references[name].title, "hyperparameters": settings}
        told[name]["protocol"] = sees.get(name, "data-free")
    return told
