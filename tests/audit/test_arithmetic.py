"""The audit's arithmetic agrees with closed forms and names comparisons that do not follow from the answers."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.audit import arithmetic
from pipeline.audit.finding import Finding
from pipeline.audit.intervals import Runs, find_end, measure_tails, weigh_runs
from pipeline.audit.repository import RepositoryError, gather
from pipeline.audit.suite import AuditedSuite
from pipeline.runtime import store
from pipeline.statistics.intervals import Interval, compare_pairs, mark_methods

TASKS = ("a", "b")
EXAMPLES = 80
SEEDS = {"zeroshot": [-1], "individual": [-1], "average": [-1], "distillation": [0, 1, 2], "samerging": [0, 1, 2]}
RIGHT = {"zeroshot": 0.2, "individual": 0.9, "average": 0.5, "distillation": 0.7, "samerging": 0.75}
TITLES = {"average": "Simple average", "distillation": "Distillation", "samerging": "SAMerging"}
TABLE = "reports/tables/s-comparisons.csv"
EVIDENCE = "reports/evidence/suites/s"


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return {
        method: {task: rng.random((len(seeds), EXAMPLES)) < RIGHT[method] for task in TASKS}
        for method, seeds in SEEDS.items()
    }


@pytest.fixture(scope="module")
def made(answers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report's scores and answers, and its table of comparisons."""
    tmp_path = tmp_path_factory.mktemp("made")
    rows = [
        ("s", method, task, "" if seed == -1 else seed, 0, int(answers[method][task][place].sum()), EXAMPLES)
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
    order = np.arange(EXAMPLES)
    clusters = {TASKS[0]: np.stack([order // 40, order % 9, order % 11], 1)}
    store.write_arrays(tmp_path / f"{EVIDENCE}/clusters.npz", {f"test/{task}": part for task, part in clusters.items()})
    store.write_text(tmp_path / "params.yaml", "suites: [s]\nstudies: []\nevaluation_split: test\n")
    seeds = {method: tuple(method_seeds) for method, method_seeds in SEEDS.items()}
    pairs = [("samerging", name) for name in SEEDS if name != "samerging"]
    compared = {
        other: comparison
        for (_, other), comparison in compare_pairs(mark_methods(answers, seeds, clusters=clusters), pairs).items()
    }
    table = []
    for name, comparison in compared.items():
        row = {"method": name, "p": comparison.p, "examples": comparison.examples, "seeds": 3, "runs": len(SEEDS[name])}
        parts = {"difference": comparison.average, "like": comparison.like}
        parts |= {task: Interval(*ends) for task, *ends in zip(TASKS, *vars(comparison.tasks).values(), strict=True)}
        for column, part in parts.items():
            row |= {column: 100 * part.value, f"{column} low": 100 * part.low, f"{column} high": 100 * part.high}
        row |= {"won": comparison.won, "lost": comparison.lost}
        beyond = " and on tasks like these" * bool(comparison.like.low > 0 or comparison.like.high < 0)
        word = "better" if row["difference"] > 0 else "worse"
        row["verdict"] = f"{word} on these tasks{beyond}" if comparison.p < 0.05 else "no difference shown"
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


def check(root: Path) -> Finding:
    """Return the audit's finding on the comparisons."""
    suite = AuditedSuite(gather(root), "s")
    return arithmetic.check_comparisons(suite, arithmetic.derive_accuracies(suite.scores, TASKS), "comparisons")


def list_faults(root: Path) -> str:
    """Return what the audit finds wrong with the comparisons."""
    return "; ".join(check(root).wrong)


def alter(root: Path, method: str, **columns: object) -> None:
    """Change the values of a method in the table of comparisons."""
    frame = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
    for name, value in columns.items():
        frame.loc[frame.method == method, name.replace("_", " ")] = str(value)
    store.write_text(root / TABLE, frame.to_csv(index=False))


def test_differences_have_the_interval_of_paired_samples(answers, root: Path):
    """Examples: the sum over tasks of var(d) / n; three seeds: the variance of their mean; Satterthwaite's freedom."""
    accuracies = arithmetic.derive_accuracies(AuditedSuite(gather(root), "s").scores, TASKS)
    runs = {
        method: Runs(accuracies.seeds[method], [right[task][None] for task in TASKS])
        for method, right in answers.items()
    }
    for other in ("average", "zeroshot"):
        differences = [answers["samerging"][task].mean(0) - answers[other][task].mean(0) for task in TASKS]
        parts = [(100**2 * part.var(ddof=1) / EXAMPLES / len(TASKS) ** 2, EXAMPLES - 1) for part in differences]
        parts.append((accuracies.per_cent["samerging"].mean(1).var(ddof=1) / 3, 2))
        variance = sum(part for part, _ in parts)
        freedom = variance**2 / sum(part**2 / members for part, members in parts)
        mean, error = 100 * np.mean(differences), np.sqrt(variance)
        half = stats.t.ppf(0.975, freedom) * error
        total = weigh_runs(runs, {"samerging": 1, other: -1})
        assert total.tasks.mean() == pytest.approx(mean)
        assert total.average == pytest.approx((mean - half, mean + half, 2 * stats.t.sf(abs(mean) / error, freedom)))


def test_a_true_table_of_comparisons_passes(root: Path):
    finding = check(root)
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 40


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"difference": 12.3}, "distillation, difference is 12.3"),
        ({"a": -3.0}, "distillation, a is -3.0"),
        ({"difference_low": 0.5}, "distillation, difference low is 0.5, the evidence gives "),
        ({"like_high": 99.0}, "distillation, like high is 99.0, the evidence gives "),
        ({"b_low": 0.25}, "distillation, b low is 0.25, the evidence gives "),
        ({"p": 0.0001}, "distillation, p is 0.0001"),
        ({"verdict": "better on these tasks and on tasks like these"}, "its numbers say “no difference shown”"),
        ({"won": 7}, "distillation, won is 7"),
        ({"examples": 161}, "distillation, examples is 161"),
    ],
)
def test_a_false_comparison_is_named(root: Path, columns: dict[str, object], why: str):
    alter(root, "distillation", **columns)
    assert why in list_faults(root)


def test_clusters_that_are_left_out_are_missed(root: Path):
    """Intervals over clusters are not those over examples."""
    store.write_arrays(root / EVIDENCE / "clusters.npz", {})
    assert "distillation, difference low is " in list_faults(root)


def test_clusters_of_other_examples_are_refused(root: Path):
    store.write_arrays(root / EVIDENCE / "clusters.npz", {"test/a": np.zeros((3, 2), np.int64)})
    with pytest.raises(RepositoryError, match=r"clusters.npz: clusters of a have shape \(3, 2\), 80 were scored"):
        check(root)


def test_pairs_of_a_question_are_compared_like_rows_with_samerging(root: Path):
    frame = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False).iloc[:-1]
    answered = frame.rename(columns={"method": "other"}).assign(method="samerging")
    path = root / "reports/tables/s-questions.csv"
    answered.to_csv(path, index=False)
    suite = AuditedSuite(gather(root), "s")
    accuracies = arithmetic.derive_accuracies(suite.scores, TASKS)
    finding = arithmetic.check_comparisons(suite, accuracies, "questions")
    assert (finding.wrong, finding.absent) == ([], [])
    assert finding.compared > 40
    answered.rename(columns={"method": "other", "other": "method"}).to_csv(path, index=False)
    swapped = arithmetic.check_comparisons(AuditedSuite(gather(root), "s"), accuracies, "questions")
    assert any("average minus samerging, difference is" in fault for fault in swapped.wrong)


def test_without_answers_only_counts_are_compared(root: Path):
    (root / f"{EVIDENCE}/answers.npz").unlink()
    finding = check(root)
    assert not finding.wrong
    assert "answers to single examples: intervals, p" in finding.absent


def test_holm_agrees_with_the_step_down_definition():
    """With p sorted, hypotheses are rejected as long as p(i) <= level / (m - i + 1)."""
    for p in itertools.permutations([0.001, 0.02, 0.02, 0.3]):
        adjusted = arithmetic.adjust_holm(dict(enumerate(p))).values()
        for level in (0.003, 0.01, 0.05, 0.07, 0.5):
            rejected = 0
            for rank, value in enumerate(sorted(p)):
                if value > level / (len(p) - rank):
                    break
                rejected += 1
            assert sum(value <= level for value in adjusted) == rejected


@pytest.mark.parametrize("freedom", [1, 1.7, 2, 3.5, 7, 40, 799, 5000])
def test_the_audits_own_t_is_scipys(freedom: float):
    assert find_end(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    for x in (0, 0.01, 0.8, 2, -3.3, 40):
        assert measure_tails(x, freedom) == pytest.approx(2 * stats.t.sf(abs(x), freedom), rel=1e-8)
