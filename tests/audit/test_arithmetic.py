"""The audit's own arithmetic against closed forms; comparisons that are not those of the answers are named."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.audit import arithmetic
from pipeline.audit.finding import Finding
from pipeline.audit.repository import gather
from pipeline.audit.resampling import Runs, resample_runs
from pipeline.audit.suite import AuditedSuite
from pipeline.runtime import store
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import Interval

TASKS = ("a", "b")
IMAGES = 80
SEEDS = {"zeroshot": [-1], "individual": [-1], "average": [-1], "distillation": [0, 1, 2], "samerging": [0, 1, 2]}
RIGHT = {"zeroshot": 0.2, "individual": 0.9, "average": 0.5, "distillation": 0.7, "samerging": 0.75}
TITLES = {"average": "Simple average", "distillation": "Distillation", "samerging": "SAMerging"}
TABLE = "reports/tables/s-comparisons.csv"
EVIDENCE = "reports/evidence/suites/s"


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return {
        method: {task: rng.random((len(seeds), IMAGES)) < RIGHT[method] for task in TASKS}
        for method, seeds in SEEDS.items()
    }


@pytest.fixture(scope="module")
def made(answers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's scores and answers, and its table of comparisons."""
    tmp_path = tmp_path_factory.mktemp("made")
    rows = [
        ("s", method, task, "" if seed == -1 else seed, 0, int(answers[method][task][place].sum()), IMAGES)
        for method, seeds in SEEDS.items()
        for place, seed in enumerate(seeds)
        for task in TASKS
    ]
    header = ("suite", "method", "task", "seed", "samples", "correct", "total")
    store.write_csv(tmp_path / f"{EVIDENCE}/scores.csv", header, rows)
    packed = {f"{m}/{t}": np.packbits(right, axis=1) for m, tasks in answers.items() for t, right in tasks.items()}
    store.write_arrays(tmp_path / f"{EVIDENCE}/answers.npz", packed)
    groups = {"zeroshot": "Floor", "individual": "Floor", "average": "Data-free"}
    titled = [(name, TITLES.get(name, name), groups.get(name, "Calibrated")) for name in SEEDS]
    store.write_csv(tmp_path / "reports/tables/s.csv", ("method", "title", "group"), titled)
    seeds = {method: tuple(own) for method, own in SEEDS.items()}
    compared = bootstrap.compare_with_others(
        bootstrap.resample_accuracies(answers, seeds), "samerging", [name for name in SEEDS if name != "samerging"]
    )
    table = []
    for name, one in compared.items():
        row = {"method": name, "p": one.p, "images": one.images, "seeds": 3, "runs": len(SEEDS[name])}
        parts = {"difference": one.average, "like": one.like}
        parts |= {task: Interval(*ends) for task, *ends in zip(TASKS, *vars(one.tasks).values(), strict=True)}
        for column, part in parts.items():
            row |= {column: 100 * part.value, f"{column} low": 100 * part.low, f"{column} high": 100 * part.high}
        row |= {"won": one.won, "lost": one.lost}
        beyond = " and on tasks like these" * bool(one.like.low > 0 or one.like.high < 0)
        word = "better" if row["difference"] > 0 else "worse"
        row["verdict"] = f"{word} on these tasks{beyond}" if one.p < 0.05 else "no difference shown"
        table.append(row)
    frame = pd.DataFrame(table)
    main = pd.DataFrame([{"method": "samerging", "difference": ""}])
    frame = pd.concat([frame.astype(object), main])
    store.write_text(tmp_path / TABLE, frame.to_csv(index=False, float_format="%.6f"))
    return tmp_path


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(made, tmp_path / "root")


def checked(root: Path) -> Finding:
    """What the audit says of the comparisons."""
    suite = AuditedSuite(gather(root), "s")
    return arithmetic.check_comparisons(suite, arithmetic.derive_accuracies(suite.scores, TASKS))


def wrong(root: Path) -> str:
    return "; ".join(checked(root).wrong)


def altered(root: Path, method: str, **columns: object) -> None:
    frame = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
    for name, value in columns.items():
        frame.loc[frame.method == method, name.replace("_", " ")] = str(value)
    store.write_text(root / TABLE, frame.to_csv(index=False))


def test_drawn_differences_have_the_variance_of_paired_samples(answers, root: Path):
    """Of images: sum over tasks of var(d) / n; of seeds (three, drawn with replacement) the variance of their means."""
    known = arithmetic.derive_accuracies(AuditedSuite(gather(root), "s").scores, TASKS)
    runs = {
        method: Runs(known.seeds[method], [right[task][None] for task in TASKS]) for method, right in answers.items()
    }
    resampled = resample_runs(runs, arithmetic.DRAWS)
    images = {method: draws.images for method, draws in resampled.items()}
    tasks = {method: draws.tasks for method, draws in resampled.items()}
    for other in ("average", "zeroshot"):
        own = [answers["samerging"][task].mean(0) - answers[other][task].mean(0) for task in TASKS]
        of_images = sum(one.var() / IMAGES for one in own) / len(TASKS) ** 2
        seeds = known.per_cent["samerging"].mean(1).var() / 3 / 1e4
        # Seeds and images are crossed: their interaction, the spread of single answers over seeds, is drawn as well.
        crossed = sum(
            (answers["samerging"][task] - answers["samerging"][task].mean(0)).var() / IMAGES / 3 for task in TASKS
        )
        expected = 1e4 * (of_images + seeds + crossed / len(TASKS) ** 2)
        drawn = (images["samerging"] - images[other]).mean(1)
        assert drawn.var() == pytest.approx(expected, rel=0.06)
        assert drawn.mean() == pytest.approx(100 * np.mean(own), abs=0.2)
    paired = known.per_cent["samerging"].mean(1) - known.per_cent["distillation"].mean(1)
    assert (tasks["samerging"] - tasks["distillation"]).mean() == pytest.approx(paired.mean(), abs=0.2)


def test_a_true_table_of_comparisons_holds(root: Path):
    found = checked(root)
    assert (found.wrong, found.absent) == ([], ["intervals of IQM"])
    assert found.compared > 40


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"difference": 12.3}, "distillation, difference is 12.3"),
        ({"a": -3.0}, "distillation, a is -3.0"),
        ({"difference_low": 0.5}, "distillation, difference low is 0.5, the answers give "),
        ({"like_high": 99.0}, "distillation, like high is 99.0, the answers give "),
        ({"b_low": 0.25}, "distillation, b low is 0.25, the answers give "),
        ({"p": 0.0001}, "distillation, p is 0.0001"),
        ({"verdict": "better on these tasks and on tasks like these"}, "its numbers say “no difference shown”"),
        ({"won": 7}, "distillation, won is 7"),
        ({"images": 161}, "distillation, images is 161"),
    ],
)
def test_a_false_comparison_is_named(root: Path, columns: dict[str, object], why: str):
    altered(root, "distillation", **columns)
    assert why in wrong(root)


def test_without_answers_only_what_counts_give_is_compared(root: Path):
    (root / f"{EVIDENCE}/answers.npz").unlink()
    found = checked(root)
    assert not found.wrong
    assert "answers to single images: intervals, p" in found.absent


def test_holm_rejects_what_stepping_down_rejects():
    """Against the definition: with p sorted, the first k are rejected while p(i) <= level / (m - i + 1)."""
    for p in itertools.permutations([0.001, 0.02, 0.02, 0.3]):
        adjusted = arithmetic.adjust_holm(dict(enumerate(p))).values()
        for level in (0.003, 0.01, 0.05, 0.07, 0.5):
            rejected = 0
            for rank, value in enumerate(sorted(p)):
                if value > level / (len(p) - rank):
                    break
                rejected += 1
            assert sum(value <= level for value in adjusted) == rejected
