"""Results -> every file of reports/ that is computed."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from pipeline import anchors, figures, heatmaps, scores, store, tables, verdict
from pipeline.page import page
from pipeline.records import records
from pipeline.references import MARK, Reference, refer
from pipeline.results import Chosen, Results, on_top, parameters, read
from pipeline.scores import AVERAGE, CEILING, FLOOR, GAP, MAIN

POINTS = 100
"""Points of a loss curve in reports/plots."""
GIB = 2**30


def draw(results: Results, chosen: Chosen, titles: Mapping[str, str], width: float) -> dict[str, tuple[Figure, str]]:
    """{name: (figure, caption)}."""
    looks, runs, protocol = figures.styles(titles), results.runs, results.protocol.sentence()
    levels = runs.groupby("method")[AVERAGE].mean().reindex([FLOOR, CEILING])
    means = runs.groupby("method")[list(results.tasks)].mean()
    splits = f"{results.protocol.calibration_split} images"
    few = results.used[results.used.samples < results.used.k].task.unique()
    capped = f" A task with fewer images uses all it has ({', '.join(few)})." if len(few) else ""
    seeds = f"{len(results.protocol.seeds)} seed{'s' * (len(results.protocol.seeds) != 1)}"
    efficiency = figures.efficiency(results.study.reset_index(), levels[FLOOR], levels[CEILING], looks, width)
    return {
        "accuracy": (
            figures.accuracies(means, chosen.sections(results.several), titles, width),
            f"Accuracy of every method: a dot per task, a bar at their mean, best first; methods with randomness: mean "
            f"over their seeds. {protocol}",
        ),
        "efficiency": (
            efficiency,
            f"Average accuracy over the {len(results.tasks)} tasks of the {results.protocol.evaluation_split} split "
            f"against unlabelled {splits} per task, the same number of optimiser steps for each; mean and band of one "
            f"sample standard deviation over {seeds}; methods are shifted sideways a little.{capped}",
        ),
        "coefficients": (
            figures.coefficients(results.coefficients, results.tasks, results.groups, width),
            f"Coefficients of {titles[MAIN]} per task and tensor of the image tower, mean over {seeds}, calibrated on "
            f"{splits}; numbers are transformer blocks, in and out what lies before and after them.",
        ),
        "losses": (
            figures.losses(results.losses, looks, width),
            f"Loss of the batch before each step, on {splits}; mean and range over {seeds}. Each method has its own "
            "objective, unit and scale.",
        ),
        "mloss": (
            heatmaps.mloss(results.measures, results.tasks, width),
            f"Normalised M-Loss (arXiv 2602.08564) at the first matrix of each block's MLP, on unlabelled {splits}: "
            "how far averaging the experts' weights is from averaging their answers there.",
        ),
        "cosines": (
            heatmaps.cosines(results.measures, results.tasks, width),
            "Cosines between the task vectors, over the whole model.",
        ),
        "images": (
            figures.contact_sheet(results.images, width),
            "The first images of each task's test split.",
        ),
    }


def write(inputs: Sequence[Path], suites: Sequence[str], chosen: Chosen, look: Any, outputs: Sequence[Path]) -> None:
    """Write everything. look: dpi, width, decimals; outputs: those of stages/report.py."""
    tabled, drawn, plotted, metrics, index, kept = outputs
    references = refer(chosen)
    titles = {name: one.title for name, one in references.items()}
    found = [read(inputs, suite, chosen) for suite in suites]
    sections = []
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
        store.write_text(tabled / f"{suite}-prediction.csv", _csv(results.predictions))
        lasting, timed = (_overview(results, groups, titles, look.decimals, clock) for clock in (False, True))
        store.write_text(tabled / f"{suite}-overview.md", tables.markdown(lasting))
        store.write_text(tabled / f"{suite}-overview.tex", tables.latex(lasting, f"{suite}-overview"))
        shown = []
        for name, (figure, caption) in draw(results, chosen, titles, look.width).items():
            files = {kind: figures.render(figure, kind, f"{suite}-{name}", look.dpi) for kind in figures.FORMATS}
            for kind, content in files.items():
                store.write_bytes(drawn / f"{suite}-{name}.{kind}", content)
            svg = files["svg"].decode()
            shown.append({"svg": Markup(svg[svg.index("<svg") :]), "caption": caption})
        said = scores.sentences(runs, results.tasks, groups["Data-free"], titles, look.decimals)
        diagnosis = verdict.paragraph(results.predictions)
        store.write_text(tabled / f"{suite}-sentences.md", tables.bullets([*said, diagnosis]))
        others = [("All methods at a glance", timed), *((title, other) for title, other, _ in beside.values())]
        content = {
            "name": suite,
            "sentences": said,
            "table": table,
            "beside": others,
            "figures": shown,
            "diagnosis": diagnosis,
        }
        sections.append({**content, **_provenance(results), **_origin(results)})
    for name, text in _plots(found).items():
        store.write_text(plotted / f"{name}.csv", text)
    store.write_json(kept, {name: one for results in found for name, one in records(results, chosen).items()})
    store.write_json(metrics, {results.suite: summary(results.runs) for results in found})
    papers = [(name, one.title, one.paper, one.unverified) for name, one in references.items()]
    store.write_text(index, page(suites=sections, methods=papers))


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


def _origin(results: Results) -> dict[str, Any]:
    """Where the suite came from, as text: source, what was fetched, overlaps with the test images, warnings."""
    origin, split = results.origin, results.protocol.calibration_split
    fetched = []
    for one in origin["fetched"]:
        size = sum(file["size"] for file in one["files"]) / GIB
        name = one["repo"] if one["repo"] == one["id"] else f"{one['repo']} (now {one['id']})"
        fetched.append((name, one["commit"][:12], f"{len(one['files']):,}", f"{size:,.2f}"))
    counts = {task: origin["overlap"][task] for task in results.tasks}
    return {
        "source": origin["source"],
        "fetched": fetched,
        "overlap": [(task, f"{found['train']:,}", f"{found['validation']:,}") for task, found in counts.items()],
        "warnings": [
            f"{n:,} calibration-pool image{'s' * (n != 1)} of task {task} also occur{'s' * (n == 1)} in its test split."
            for task, found in counts.items()
            if (n := found.get(split, 0))
        ],
    }


def _provenance(results: Results) -> dict[str, list[tuple[str, ...]]]:
    """Parameters, versions and stages as rows of text."""
    versions: dict[str, set[str]] = {}
    for record in results.records:
        for name, version in {"python": record["python"], **record["packages"]}.items():
            versions.setdefault(name, set()).add(version)
    return {
        "params": [(key, json.dumps(value)) for key, value in sorted(parameters("", results.records).items())],
        "versions": [(name, ", ".join(sorted(found))) for name, found in versions.items()],
        "stages": [
            (
                f"{record['stage']} {record['arguments'].get('method', '')}".strip(),
                f"{record['seconds']:,.1f}",
                f"{record['peak_mib']:,}",
                f"{record['device']}; {record['cores']} cores of {record['processor']}",
            )
            for record in results.records
        ],
    }


def _plots(found: Iterable[Results]) -> dict[str, str]:
    """Tidy CSVs for `dvc plots`: accuracy, efficiency and losses, in per cent and nats."""
    rows: dict[str, list[pd.DataFrame]] = {"accuracy": [], "efficiency": [], "losses": []}
    for results in found:
        tidy = results.runs[list(results.tasks)].melt(var_name="task", value_name="accuracy", ignore_index=False)
        rows["accuracy"].append(tidy.reset_index().assign(suite=results.suite))
        averages = results.study[AVERAGE].rename("accuracy").reset_index()
        rows["efficiency"].append(averages.assign(suite=results.suite))
        for method, values in results.losses.items():
            stride = -(-values.shape[1] // POINTS)
            seeds, steps = np.indices(values.shape)[:, :, ::stride].reshape(2, -1)
            named = {"suite": results.suite, "method": method, "seed": np.sort(results.protocol.seeds)[seeds]}
            rows["losses"].append(pd.DataFrame(named | {"step": steps, "loss": values[seeds, steps]}))
    order = {
        "accuracy": ["suite", "method", "task", "seed", "accuracy"],
        "efficiency": ["suite", "method", "k", "seed", "accuracy"],
        "losses": ["suite", "method", "seed", "step", "loss"],
    }
    tidied = {name: pd.concat(frames)[order[name]].replace({"seed": -1}, "") for name, frames in rows.items()}
    return {name: _csv(frame) for name, frame in tidied.items()}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
