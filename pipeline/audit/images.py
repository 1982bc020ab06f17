"""Which images calibrate and which are scored: none of them both, and as many of them as is claimed."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.audit.finding import Finding, Tally
from pipeline.audit.repository import Repository, integers

TABLES = "pipeline/suites/tables/tasks.csv"
ANCHORS = {"zeroshot": "zeroshot", "individual": "expert"}
"""Method -> the prefix of its column in TABLES."""
TOLERANCE = 0.1
"""Points that a reproduced accuracy may differ from the published one by."""


def check(repository: Repository, suite: str) -> list[Finding]:
    """Overlap, sizes and classes, the images that weights were trained for, anchors."""
    return [
        _overlap(repository, suite),
        _sizes(repository, suite),
        _trained(repository, suite),
        _anchors(repository, suite),
    ]


def common(pool: np.ndarray, scored: np.ndarray) -> int:
    """How many images of `pool` also occur in `scored`, by content; uint8 [N, ...] each."""
    seen = {_digest(image) for image in scored}
    return sum(_digest(image) in seen for image in pool)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes() + repr(image.shape).encode()).digest()


def tasks_of(repository: Repository, suite: str) -> list[str]:
    """The tasks of a suite's definition, by name, in order."""
    entries = repository.yaml(f"pipeline/suites/{suite}.yaml")["tasks"]
    return [entry if isinstance(entry, str) else entry["name"] for entry in entries]


def _overlap(repository: Repository, suite: str) -> Finding:
    """Counted where images are at hand, else as `prepare` counted; any must be said on the page."""
    tally = Tally(f"{suite}: overlap", "tasks whose calibration images are no test images, or it is said")
    params = repository.yaml("params.yaml")
    pool, scored = params["calibration_split"], params["evaluation_split"]
    caption = repository.text(f"reports/tables/{suite}.md") or ""
    if pool == scored:
        said = "TRANSDUCTIVE" in caption
        tally.expect(said, f"calibrated on the {pool} split that is scored, and the table does not say TRANSDUCTIVE")
        return tally.finding()
    tally.expect("TRANSDUCTIVE" not in caption, "the table says TRANSDUCTIVE, params.yaml names two splits")
    origin, page = repository.json(f"data/origins/{suite}.json"), repository.text("reports/index.html") or ""
    for task in tasks_of(repository, suite):
        stated = None if origin is None else origin["overlap"].get(task, {}).get(pool, 0)
        images = [repository.array(f"data/suites/{suite}/images/{split}/{task}.npy") for split in (pool, scored)]
        counted = None if images[0] is None or images[1] is None else common(*images)
        if counted is None:
            tally.absent.append(f"images of {task}")
        elif stated is not None and scored == "test":
            tally.expect(counted == stated, f"{task}: {counted} images of {pool} are in {scored}, {stated} are stated")
        found = stated if counted is None else counted
        if found is None:
            tally.absent.append(f"the stated overlap of {task}")
        else:
            flagged = f"{found:,} calibration-pool image" in page
            tally.expect(not found or flagged, f"{task}: {found} calibration images are {scored} images, unsaid")
    return tally.finding()


def _sizes(repository: Repository, suite: str) -> Finding:
    """Totals of the scores, labels, classes and definition agree."""
    tally = Tally(f"{suite}: sizes", "tasks with the claimed numbers of images and classes")
    scores, params = integers(repository, suite), repository.yaml("params.yaml")
    expected = _expected(repository, suite)
    recipe, about = params["recipe"].get(suite, {}), repository.json(f"data/suites/{suite}/suite.json")
    classes = {} if about is None else {task["name"]: len(task["classes"]) for task in about["tasks"]}
    for task in tasks_of(repository, suite):
        totals = {} if scores is None else {int(total) for total in scores[scores.task == task].total}
        images, labels = expected.get(task, (None, None))
        if totals:
            tally.expect(len(totals) == 1, f"{task}: scored on {sorted(totals)} images")
            if images and params["evaluation_split"] == "test":
                tally.expect(
                    totals == {images}, f"{task}: scored on {sorted(totals)} images, the test split has {images}"
                )
            if most := recipe.get(f"{params['evaluation_split']}_images"):
                tally.expect(max(totals) <= most, f"{task}: scored on {max(totals)} images, the recipe makes {most}")
        else:
            tally.absent.append(f"scores of {task}")
        held = repository.array(f"data/suites/{suite}/labels/{params['evaluation_split']}/{task}.npy")
        if held is None:
            tally.absent.append(f"labels of {task}")
            continue
        tally.expect(
            not totals or totals == {len(held)}, f"{task}: {len(held)} labels, scored on {sorted(totals)} images"
        )
        number = classes.get(task)
        if number is not None:
            whole = set(np.unique(held).tolist()) <= set(range(number))
            tally.expect(whole, f"{task}: labels beyond its {number} classes")
            tally.expect(labels in (None, number), f"{task}: {number} classes, its definition has {labels}")
    return tally.finding()


def _trained(repository: Repository, suite: str) -> Finding:
    """Images and labels of an embedded suite have the hashes that were recorded when its weights were trained."""
    tally = Tally(f"{suite}: trained for", "arrays of images and labels are those that the checkpoints belong to")
    record = repository.json(f"data/checkpoints/{suite}/images.json")
    if record is None:
        tally.absent.append("images recorded with the checkpoints: none, the weights are fetched or not in this folder")
        return tally.finding()
    for task, splits in record["arrays"].items():
        for split, hashes in splits.items():
            for kind, expected in hashes.items():
                path = f"data/suites/{suite}/{kind}/{split}/{task}.npy"
                array = repository.array(path)
                if array is None:
                    tally.absent.append(path)
                else:
                    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
                    tally.expect(digest == expected, f"{path} is not what the checkpoints were trained for")
    return tally.finding()


def _expected(repository: Repository, suite: str) -> dict[str, tuple[int | None, int | None]]:
    """{task: (test images, classes)} as the suite's definition or the tables of the public suites have them."""
    definition = repository.yaml(f"pipeline/suites/{suite}.yaml")
    if definition["family"] != "clip":
        return {}
    rows = repository.table(TABLES).set_index("task")
    found = {}
    for entry in definition["tasks"]:
        if isinstance(entry, str):
            found[entry] = (int(rows.loc[entry, "test_size"]), int(rows.loc[entry, "classes"]))
        else:
            found[entry["name"]] = (entry.get("test_size"), len(entry["classes"]) if "classes" in entry else None)
    return found


def _anchors(repository: Repository, suite: str) -> Finding:
    """Published accuracies of the same checkpoints: reproduced, or the table says which are not."""
    tally = Tally(f"{suite}: anchors", "published accuracies reproduced, or flagged")
    definition, params = repository.yaml(f"pipeline/suites/{suite}.yaml"), repository.yaml("params.yaml")
    scores = integers(repository, suite)
    if definition["family"] != "clip":
        tally.absent.append("anchors: the suite's checkpoints are the benchmark's own, nothing is published of them")
    elif params["evaluation_split"] != "test":
        tally.absent.append("anchors: they are accuracies on the test split")
    elif scores is None:
        tally.absent.append(f"scores of {suite}")
    else:
        caption = repository.text(f"reports/tables/{suite}.md") or ""
        for name, ours, published in _pairs(repository, definition, scores):
            if abs(ours - published) > TOLERANCE + 1e-9:
                flagged = "NOT reproduced" in caption and name.replace("_", r"\_") in caption
                tally.expect(flagged, f"{name}: {ours:.2f}, published {published:.2f}, and the table does not say so")
            else:
                tally.expect(True, "")
    return tally.finding()


def _pairs(
    repository: Repository, definition: Mapping[str, object], scores: pd.DataFrame
) -> Sequence[tuple[str, float, float]]:
    rows, found = repository.table(TABLES).set_index("task"), []
    for task in (entry for entry in definition["tasks"] if isinstance(entry, str)):
        for method, prefix in ANCHORS.items():
            own = scores[(scores.task == task) & (scores.method == method)]
            published = rows.loc[task, f"{prefix}_{definition['backbone']}"]
            if len(own) and published:
                name = f"{task} {'zero-shot' if method == 'zeroshot' else prefix}"
                found.append((name, float((100 * own.correct / own.total).mean()), float(published)))
    return found
