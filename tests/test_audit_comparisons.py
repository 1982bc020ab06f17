"""The audit's own bootstrap against closed forms; claims and figures that are not those of the data are named."""

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pipeline.audit.known import Known, know

from pipeline import store
from pipeline.audit import comparisons, figures, sentences
from pipeline.audit.repository import gather
from pipeline.statistics import bootstrap
from pipeline.statistics.bootstrap import Interval

TASKS = ("a", "b")
IMAGES = 80
SEEDS = {"zeroshot": [-1], "individual": [-1], "average": [-1], "distillation": [0, 1, 2], "samerging": [0, 1, 2]}
RIGHT = {"zeroshot": 0.2, "individual": 0.9, "average": 0.5, "distillation": 0.7, "samerging": 0.75}
TITLES = {"average": "Simple average", "distillation": "Distillation", "samerging": "SAMerging"}
TABLE = "reports/tables/s-comparisons.csv"
SENTENCES = "reports/tables/s-sentences.md"


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
    store.write_csv(tmp_path / "reports/scores/s.csv", header, rows)
    packed = {f"{m}/{t}": np.packbits(right, axis=1) for m, tasks in answers.items() for t, right in tasks.items()}
    store.write_arrays(tmp_path / "reports/scores/s-answers.npz", packed)
    groups = {"zeroshot": "Floor", "individual": "Floor", "average": "Data-free"}
    titled = [(name, TITLES.get(name, name), groups.get(name, "Calibrated")) for name in SEEDS]
    store.write_csv(tmp_path / "reports/tables/s.csv", ("method", "title", "group"), titled)
    seeds = {method: tuple(own) for method, own in SEEDS.items()}
    compared = bootstrap.against(
        bootstrap.resample(answers, seeds), "samerging", [name for name in SEEDS if name != "samerging"]
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
    store.write_text(tmp_path / TABLE, frame.to_csv(index=False, float_format="%.6f"))
    return tmp_path


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(made, tmp_path / "root")


def knowledge(root: Path) -> Known:
    evidence = gather(root)
    return know(evidence, "s", TASKS, evidence_scores(root))


def evidence_scores(root: Path) -> pd.DataFrame:
    frame = pd.read_csv(root / "reports/scores/s.csv")
    return frame.assign(seed=frame.seed.fillna(-1).astype(int))


def wrong(root: Path) -> str:
    return "; ".join(comparisons.check(gather(root), knowledge(root)).wrong)


def altered(root: Path, method: str, **columns: object) -> None:
    frame = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False)
    for name, value in columns.items():
        frame.loc[frame.method == method, name.replace("_", " ")] = str(value)
    store.write_text(root / TABLE, frame.to_csv(index=False))


def test_drawn_differences_have_the_variance_of_paired_samples(answers, root: Path):
    """Of images: sum over tasks of var(d) / n; of seeds (three, drawn with replacement) the variance of their means."""
    known = knowledge(root)
    drawn = comparisons.differences(known, comparisons.right(gather(root), known))
    for other in ("average", "zeroshot"):
        own = [answers["samerging"][task].mean(0) - answers[other][task].mean(0) for task in TASKS]
        images = sum(one.var() / IMAGES for one in own) / len(TASKS) ** 2
        seeds = known.accuracies["samerging"].mean(1).var() / 3 / 1e4
        # Seeds and images are crossed: their interaction, the spread of single answers over seeds, is drawn as well.
        crossed = sum(
            (answers["samerging"][task] - answers["samerging"][task].mean(0)).var() / IMAGES / 3 for task in TASKS
        )
        expected = 1e4 * (images + seeds + crossed / len(TASKS) ** 2)
        assert drawn[other].averages.var() == pytest.approx(expected, rel=0.06)
        assert drawn[other].averages.mean() == pytest.approx(100 * np.mean(own), abs=0.2)
    paired = known.accuracies["samerging"].mean(1) - known.accuracies["distillation"].mean(1)
    assert drawn["distillation"].tasks.mean() == pytest.approx(paired.mean(), abs=0.2)


def test_a_true_table_of_comparisons_holds(root: Path):
    found = comparisons.check(gather(root), knowledge(root))
    assert (found.wrong, found.absent) == ((), ())
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
        ({"won": 7}, "distillation: won 7"),
        ({"images": 161}, "distillation, images is 161"),
    ],
)
def test_a_false_comparison_is_named(root: Path, columns: dict[str, object], why: str):
    altered(root, "distillation", **columns)
    assert why in wrong(root)


def test_without_answers_only_what_counts_give_is_compared(root: Path):
    (root / "reports/scores/s-answers.npz").unlink()
    found = comparisons.check(gather(root), knowledge(root))
    assert not found.wrong
    assert found.absent == ("answers to single images: intervals, p",)


def test_holm_rejects_what_stepping_down_rejects():
    """Against the definition: with p sorted, the first k are rejected while p(i) <= level / (m - i + 1)."""
    for p in itertools.permutations([0.001, 0.02, 0.02, 0.3]):
        adjusted = comparisons.holm([*p])
        for level in (0.003, 0.01, 0.05, 0.07, 0.5):
            rejected = 0
            for rank, value in enumerate(sorted(p)):
                if value > level / (len(p) - rank):
                    break
                rejected += 1
            assert sum(value <= level for value in adjusted) == rejected


def spoken(root: Path) -> list[str]:
    """Sentences in the report's form, made of its table."""
    row = pd.read_csv(root / TABLE, dtype=str, keep_default_na=False).set_index("method").loc["average"]
    ends = [f"{float(row[name]):+.2f}" for name in ("difference low", "difference high", "like low", "like high")]
    verdicts = pd.read_csv(root / TABLE).verdict
    better, none = (int(verdicts.str.startswith(start).sum()) for start in ("better", "no"))
    return [
        f"SAMerging minus Simple average, the best data-free method: {float(row['difference']):+.2f} points, 95 % "
        f"interval [{ends[0]}, {ends[1]}] on these tasks, [{ends[2]}, {ends[3]}] on tasks like these (n = 3 seeds "
        f"against 1 run, 160 test images): SAMerging is {row['verdict']}.",
        f"Of the 4 other rows of the table, SAMerging is better than {better} and worse than 1 (individual); no "
        f"difference is shown to {none} (Distillation). On these tasks.",
        "None covers other experts: all of it is about these ones. With 3 seeds intervals are rough.",
    ]


def test_sentences_on_differences_are_recomputed(root: Path):
    said = spoken(root)
    store.write_text(root / SENTENCES, "".join(f"- {one}\n" for one in said).replace("[", r"\[").replace("]", r"\]"))
    found = sentences.check(gather(root), knowledge(root))
    assert (found.wrong, found.absent) == ((), ())
    assert found.compared == 8 + 4 + 1


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r": \+\d+", ": +99"),
        (r"interval \[.", "interval [+9"),
        ("against 1 run", "against 2 runs"),
        ("160 test", "170 test"),
        ("better on these tasks", "worse on these tasks"),
        ("Simple average,", "Distillation,"),
        ("worse than 1", "worse than 0"),
        ("With 3 seeds", "With 5 seeds"),
    ],
)
def test_a_false_sentence_is_named(root: Path, pattern: str, new: str):
    text = "\n".join(f"- {one}" for one in spoken(root))
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text
    store.write_text(root / SENTENCES, changed)
    assert sentences.check(gather(root), knowledge(root)).wrong


def test_data_of_figures_are_held_against_what_they_were_drawn_from(root: Path):
    known = knowledge(root)
    means = [(m, t, f"{known.values[m][t].mean:.6g}") for m in known.titles.values() for t in TASKS]
    store.write_csv(root / "reports/figures/s-accuracy.csv", ("method", "task", "accuracy"), means)
    curves = [(seed, step, (seed + 1) / (step + 1)) for seed in (0, 1) for step in (0, 1)]
    store.write_csv(root / "data/merges/s/samerging/losses.csv", ("seed", "step", "loss"), curves)
    shown = [("samerging", 0, 1.5, 1, 2), ("samerging", 1, 0.75, 0.5, 1)]
    store.write_csv(root / "reports/figures/s-losses.csv", ("method", "step", "mean", "low", "high"), shown)
    cosines = [("s", "cosine", "", "a", "b", 0.25), ("s", "cosine", "blocks.1.x", "a", "b", 0.5)]
    columns = ("suite", "measure", "layer", "task", "other", "value")
    store.write_csv(root / "data/diagnostics/s/measures.csv", columns, cosines)
    store.write_csv(root / "reports/tables/s-measures.csv", columns, cosines)
    store.write_csv(root / "reports/figures/s-cosines.csv", ("task", "other", "value"), [("a", "b", 0.25)])
    store.write_csv(root / "reports/figures/s-unknown.csv", ("x",), [(1,)])
    found = figures.check(gather(root), known)
    assert (found.wrong, found.compared) == ((), 2 * len(SEEDS) + 2 * 3 + 1 + 2)
    assert found.absent == ("pictures beside their data", "what reports/figures/s-unknown.csv was drawn from")
    store.write_csv(root / "reports/figures/s-cosines.csv", ("task", "other", "value"), [("a", "b", 0.5)])
    store.write_csv(root / "reports/figures/s-accuracy.csv", ("method", "task", "accuracy"), means[:-1])
    wrong_ones = figures.check(gather(root), known).wrong
    assert wrong_ones[0].startswith(
        "reports/figures/s-accuracy.csv: samerging b, accuracy is missing, its source gives "
    )
    assert wrong_ones[1] == "reports/figures/s-cosines.csv: a b, value is 0.5, its source gives 0.25"
    moved = [("s", "cosine", "", "a", "b", 0.5), *cosines[1:]]
    store.write_csv(root / "reports/tables/s-measures.csv", columns, moved)
    wrong_ones = figures.check(gather(root), known).wrong
    assert wrong_ones[0] == "reports/tables/s-measures.csv: s cosine  a b, value is 0.5, its source gives 0.25"
    assert len(wrong_ones) == 2
