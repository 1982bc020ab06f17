"""Results -> every file of reports/ that is computed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import anchors, figures, heatmaps, page, scores, sections, store, tables, tidy, verdict
from pipeline.references import MARK, Reference, refer
from pipeline.results import Chosen, Results, on_top, parameters, read
from pipeline.scores import AVERAGE, CEILING, FLOOR, GAP, MAIN
from pipeline.sections import Drawing, Tabled


def draw(results: Results, chosen: Chosen, titles: Mapping[str, str], width: float) -> dict[str, Drawing]:
    """{name: figure, what is said of it, and what it shows}."""
    looks, runs, protocol = figures.styles(titles), results.runs, results.protocol.sentence()
    levels = runs.groupby("method")[AVERAGE].mean().reindex([FLOOR, CEILING])
    means = runs.groupby("method")[list(results.tasks)].mean()
    splits = f"{results.protocol.calibration_split} images"
    few = results.used[results.used.samples < results.used.k].task.unique()
    capped = f" A task with fewer images uses all it has ({', '.join(few)})." if len(few) else ""
    seeds = f"{len(results.protocol.seeds)} seed{'s' * (len(results.protocol.seeds) != 1)}"
    study, measures = results.study.reset_index(), results.measures
    return {
        "accuracy": Drawing(
            "Accuracy of every method",
            figures.accuracies(means, chosen.sections(results.several), titles, width),
            f"Accuracy of every method: a dot per task, a bar at their mean, best first; methods with randomness: mean "
            f"over their seeds. {protocol}",
            tidy.accuracies(means),
        ),
        "efficiency": Drawing(
            "Data efficiency",
            figures.efficiency(study, levels[FLOOR], levels[CEILING], looks, width),
            f"Average accuracy over the {len(results.tasks)} tasks of the {results.protocol.evaluation_split} split "
            f"against unlabelled {splits} per task, the same number of optimiser steps for each; mean and band of one "
            f"sample standard deviation over {seeds}; methods are shifted sideways a little.{capped}",
            tidy.efficiency(study),
        ),
        "coefficients": Drawing(
            f"Coefficients of {titles[MAIN]}",
            figures.coefficients(results.coefficients, results.tasks, results.groups, width),
            f"Coefficients of {titles[MAIN]} per task and tensor of the image tower, mean over {seeds}, calibrated on "
            f"{splits}; numbers are transformer blocks, in and out what lies before and after them.",
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
            "Normalised M-Loss",
            heatmaps.mloss(measures, results.tasks, width),
            f"Normalised M-Loss (arXiv 2602.08564) at the first matrix of each block's MLP, on unlabelled {splits}: "
            "how far averaging the experts' weights is from averaging their answers there.",
            heatmaps.shown_mloss(measures),
        ),
        "cosines": Drawing(
            "Cosines between task vectors",
            heatmaps.cosines(measures, results.tasks, width),
            "Cosines between the task vectors, over the whole model.",
            heatmaps.shown_cosines(measures),
        ),
        "images": Drawing(
            "Images",
            figures.contact_sheet(results.images, width),
            "The first images of each task's test split.",
        ),
    }


def write(inputs: Sequence[Path], suites: Sequence[str], chosen: Chosen, look: Any, outputs: Sequence[Path]) -> None:
    """Write everything.

    inputs: the folders of `pipeline.results.read`, then that of `pipeline.page.render`; look: dpi, width, decimals;
    outputs: tables, figures, plots, metrics.json, index.html.
    """
    *measured, templates = inputs
    tabled, drawn, plotted, metrics, index = outputs
    references = refer(chosen)
    titles = {name: one.title for name, one in references.items()}
    found = [read(measured, suite, chosen) for suite in suites]
    parts = []
    for results in found:
        suite, runs, groups = results.suite, results.runs, chosen.sections(results.several)
        anchored, beside = _published(results, chosen, references, look.decimals)
        table = tables.build(runs, groups, titles, look.decimals, results.protocol.caption(anchored))
        store.write_text(tabled / f"{suite}.csv", tables.csv(runs, groups, titles))
        store.write_text(tabled / f"{suite}.md", tables.markdown(table))
        store.write_text(tabled / f"{suite}.tex", tables.latex(table, suite))
        store.write_text(tabled / f"{suite}-efficiency.csv", tables.efficiency(results.study, results.used))
        for name, (_, other, text) in beside.items():
            store.write_text(tabled / f"{suite}-{name}.csv", text)
            store.write_text(tabled / f"{suite}-{name}.md", tables.markdown(other))
        store.write_text(tabled / f"{suite}-prediction.csv", tidy.csv(results.predictions))
        lasting, timed = (_overview(results, groups, titles, look.decimals, clock) for clock in (False, True))
        store.write_text(tabled / f"{suite}-overview.md", tables.markdown(lasting))
        store.write_text(tabled / f"{suite}-overview.tex", tables.latex(lasting, f"{suite}-overview"))
        drawings = draw(results, chosen, titles, look.width)
        for name, drawing in drawings.items():
            for kind in figures.FORMATS:
                content = figures.render(drawing.figure, kind, f"{suite}-{name}", look.dpi)
                store.write_bytes(drawn / f"{suite}-{name}.{kind}", content)
            if drawing.data is not None:
                store.write_text(drawn / f"{suite}-{name}.csv", tidy.csv(drawing.data))
        said = scores.sentences(runs, results.tasks, groups["Data-free"], titles, look.decimals)
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
    sees = dict.fromkeys((FLOOR, CEILING), "not merged") | dict.fromkeys(learned, results.protocol.sees())
    told = {}
    for name in chosen.names:
        own = {key: params[key] for key in references[name].settings if key in params}
        found = params.get(f"merge.{name}", params.get(f"calibrate.{name}", own))
        settings = ", ".join(f"{key} {value}" for key, value in found.items())
        told[name] = {"method": references[name].title, "hyperparameters": settings}
        told[name]["protocol"] = sees.get(name, "data-free")
    return told
