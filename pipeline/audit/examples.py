"""Which examples calibrate and which are scored: none of them both, and as many of them as is claimed."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd

from pipeline.audit.finding import Finding
from pipeline.audit.suite import TABLES, AuditedSuite

ANCHORS = {"zeroshot": "zeroshot", "individual": "expert", "average": "average"}
"""Method -> its column, or the prefix of it, in the tables of the public suites."""
ROWS = {"zeroshot": "zero-shot", "individual": "expert", "average": "simple average"}
"""Method -> its name in the report's sentence."""
GLUE = {"base": "openai-community/gpt2", "data": "nyu-mll/glue", "max_length": 512, "merge_embeddings": True}
"""The values of a definition with which accuracies of GLUE-7 were published."""
POINTS, EXAMPLES = 0.1, 3
"""A reproduced accuracy may differ from the published one by so many points, or by so many examples if that is more."""


def check(suite: AuditedSuite) -> list[Finding]:
    """Check overlap, sizes and classes, the examples that weights were trained for, and published accuracies."""
    return [_check_overlap(suite), _check_sizes(suite), _check_training_images(suite), _check_anchors(suite)]


def count_common(pool: np.ndarray, scored: np.ndarray) -> int:
    """Count the examples of `pool` that also occur in `scored`, by content; uint8 [N, ...] each."""
    digests = {_digest(example) for example in scored}
    return sum(_digest(example) in digests for example in pool)


def _digest(example: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(example).tobytes() + repr(example.shape).encode()).digest()


def _check_overlap(suite: AuditedSuite) -> Finding:
    """Count the overlap where examples are there, else take the count of `prepare`; the page must state any."""
    finding = Finding(
        f"{suite.name}: overlap", "tasks whose calibration examples are no test examples, or the report names them"
    )
    pool, scored = (suite.repository.params[f"{kind}_split"] for kind in ("calibration", "evaluation"))
    flagged = "TRANSDUCTIVE" in suite.caption
    if pool == scored:
        complaint = f"calibrated on the {pool} split that is scored, and the table does not say TRANSDUCTIVE"
        finding.expect(flagged, complaint)
        return finding
    finding.expect(not flagged, "the table says TRANSDUCTIVE, params.yaml names two splits")
    origin = suite.repository.json(f"data/origins/{suite.name}.json")
    page = suite.repository.text("reports/index.html") or ""
    for task in suite.tasks:
        stated = None if origin is None else origin["overlap"].get(task, {}).get(pool, 0)
        pool_examples, scored_examples = (suite.examples(split, task) for split in (pool, scored))
        if pool_examples is None or scored_examples is None:
            finding.skip(f"examples of {task}")
            overlap = stated
        else:
            overlap = count_common(pool_examples, scored_examples)
            if stated is not None and scored == "test":
                complaint = f"{task}: {overlap} examples of {pool} are in {scored}, {stated} are stated"
                finding.expect(overlap == stated, complaint)
        if overlap is None:
            finding.skip(f"the stated overlap of {task}")
        else:
            flagged = f"{overlap:,} calibration-pool example" in page
            complaint = f"{task}: {overlap} calibration examples are {scored} examples, unsaid"
            finding.expect(not overlap or flagged, complaint)
    return finding


def _check_sizes(suite: AuditedSuite) -> Finding:
    """Check that totals of the scores, labels, classes and the suite's definition agree."""
    finding = Finding(f"{suite.name}: sizes", "tasks with the claimed numbers of examples and classes")
    params, scores, claims = suite.repository.params, suite.scores, _claimed_sizes(suite)
    split, record = params["evaluation_split"], suite.repository.json(f"data/suites/{suite.name}/suite.json")
    recipe = params["recipe"].get(suite.name, {})
    most = recipe.get(f"{split}_images", recipe.get(f"{split}_texts"))
    classes = {} if record is None else {task["name"]: len(task["classes"]) for task in record["tasks"]}
    for task in suite.tasks:
        totals = set() if scores is None else {int(total) for total in scores.total[scores.task == task]}
        examples, named = claims.get(task, (None, None))
        scored = f"{task}: scored on {sorted(totals)} examples"
        if totals:
            finding.expect(len(totals) == 1, scored)
            if examples and split == "test":
                finding.expect(totals == {examples}, f"{scored}, the test split has {examples}")
            if most:
                finding.expect(max(totals) <= most, f"{scored}, the recipe makes {most}")
        else:
            finding.skip(f"scores of {task}")
        labels, number = suite.labels(split, task), classes.get(task)
        if labels is None:
            finding.skip(f"labels of {task}")
            continue
        same = not totals or totals == {len(labels)}
        finding.expect(same, f"{task}: {len(labels)} labels, scored on {sorted(totals)} examples")
        if number is not None:
            whole = set(np.unique(labels).tolist()) <= set(range(number))
            finding.expect(whole, f"{task}: labels beyond its {number} classes")
            finding.expect(named in (None, number), f"{task}: {number} classes, its definition has {named}")
    return finding


def _check_training_images(suite: AuditedSuite) -> Finding:
    """Check that examples of an embedded suite have the hashes that were recorded when its weights were trained."""
    finding = Finding(
        f"{suite.name}: trained for", "arrays of examples and labels are those that the checkpoints belong to"
    )
    folder = f"data/checkpoints/{suite.name}"
    record = suite.repository.json(f"{folder}/images.json") or suite.repository.json(f"{folder}/texts.json")
    if record is None:
        return finding.skip("examples recorded with checkpoints: none, the weights are fetched or not in this folder")
    hashes = (
        (f"data/suites/{suite.name}/{kind}/{split}/{task}.npy", expected)
        for task, splits in record["arrays"].items()
        for split, kinds in splits.items()
        for kind, expected in kinds.items()
    )
    for path, expected in hashes:
        array = suite.repository.array(path)
        if array is None:
            finding.skip(path)
        else:
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            finding.expect(digest == expected, f"{path} is not what the checkpoints were trained for")
    return finding


def _claimed_sizes(suite: AuditedSuite) -> dict[str, tuple[int | None, int | None]]:
    """Return {task: (test examples, classes)} of a public suite, from its definition or the tables of public tasks."""
    sizes: dict[str, tuple[int | None, int | None]] = {}
    for entry in suite.definition["tasks"] if suite.definition["family"] in TABLES else ():
        if isinstance(entry, str):
            row = suite.public_tasks[entry]
            classes = row["classes"]  # their number, or their names
            sizes[entry] = int(row["test_size"]), int(classes) if classes.isdigit() else len(classes.split("|"))
        else:
            sizes[entry["name"]] = entry.get("test_size"), len(entry["classes"]) if "classes" in entry else None
    return sizes


def _check_anchors(suite: AuditedSuite) -> Finding:
    """Check that published accuracies of the same checkpoints are reproduced, or the table says which are not."""
    finding = Finding(f"{suite.name}: anchors", "published accuracies reproduced, or flagged")
    if suite.definition["family"] not in TABLES:
        return finding.skip("anchors: the suite's checkpoints are the benchmark's own, nothing is published of them")
    if suite.repository.params["evaluation_split"] != "test":
        return finding.skip("anchors: they are accuracies on the test split")
    if suite.scores is None:
        return finding.skip(f"scores of {suite.name}")
    for name, accuracy, published, size in _anchors(suite, suite.scores):
        flagged = "NOT reproduced" in suite.caption and name.replace("_", r"\_") in suite.caption
        complaint = f"{name}: {accuracy:.2f}, published {published:.2f}, and the table does not say so"
        finding.expect(flagged or abs(accuracy - published) <= max(POINTS, 100 * EXAMPLES / size) + 1e-9, complaint)
    return finding


def _anchors(suite: AuditedSuite, scores: pd.DataFrame) -> Iterator[tuple[str, float, float, int]]:
    """Yield (name, accuracy, published accuracy, scored examples) of every model that something is published of."""
    definition = suite.definition
    suffix = f"_{definition.get('backbone')}" if definition["family"] == "clip" else ""
    if definition["family"] == "glue" and ("experts" in definition or {**definition, **GLUE} != definition):
        return
    for task in (entry for entry in definition["tasks"] if isinstance(entry, str)):
        for method, column in ANCHORS.items():
            rows = scores[(scores.task == task) & (scores.method == method)]
            published = suite.public_tasks[task].get(f"{column}{suffix}")
            if len(rows) and published:
                name = f"{task} {ROWS[method]}"
                yield name, float((100 * rows.correct / rows.total).mean()), float(published), int(rows.total.iloc[0])
