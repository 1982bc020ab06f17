"""Conflict: what is permuted and what is shared, the bound in closed form, and the view of made-up scores."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from pydantic import ValidationError

from pipeline import methods
from pipeline.embedded import training
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.figures import render_figure
from pipeline.report.studies import Context
from pipeline.report.studies.conflict import view
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.statistics.sampling import sample_indices
from pipeline.studies import conflict as study
from pipeline.studies._constructed import permute_classes
from pipeline.studies.conflict import COLUMNS, Params, TooFewSources, pair_tasks
from pipeline.suites import lora
from stages.studies import conflict as stage
from tests.support import toy
from tests.support.embedded import RECIPE, train_suite

pytestmark = pytest.mark.usefixtures("one_process")

TRAINED = ["textures", "signs"]
SCHEDULE = Schedule(lr=0.01, steps=2, batch_size=2)
PARAMS = Params(sources=[0, 1, 6], degrees=[0.0, 0.5, 1.0], partners=2, seed=3)
KINDS = ("0", "0.5", "1")
LEARNED = ("adamerging", "distillation", "samerging")
METHODS = ("average", "task_arithmetic", "ties", "tsv_m", *LEARNED)
SIZES = {"a": 80, "bb": 100, "ccc": 80}
SHARES = {
    "average": (0.4, 0.4), "task_arithmetic": (0.5, 0.3), "ties": (0.7, 0.1), "tsv_m": (0.15, 0.75),
    "adamerging": (0.9, 0.0), "distillation": (0.6, 0.3), "samerging": (0.6, 0.3),
}  # fmt: skip
"""{method: shares of the images that it answers as the source labels them, and as the conflicting task does}."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded suite of two tasks."""
    return train_suite(tmp_path_factory.mktemp("embedded"), TRAINED)


def make_job(embedded: Path, folder: Path, **changes: object) -> Job:
    """Make a small job of the stage."""
    values = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    values |= samerging.Params().model_dump()
    values |= {"schedule.{suite}": SCHEDULE, "calibration_split": "train", "precision": "float32"}
    values |= {"samples_per_task": 6, "evaluation_split": "test", "recipe.{suite}": RECIPE, "study.conflict": PARAMS}
    output = folder / "scratch" / "conflict"
    output.parent.mkdir(parents=True)
    return Job({}, values | changes, (embedded,), (output,), Resumable(folder / "cells"))


@pytest.fixture(scope="module")
def ran(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, pd.DataFrame]:
    """A finished job, and its rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        job = make_job(embedded, tmp_path_factory.mktemp("ran"))
        stage.run(job)
    return job, pd.read_csv(job.outputs[0] / "rows.csv", dtype={"right": "str"})


@pytest.mark.parametrize("classes", [2, 3, 10, 24])
def test_permutations_move_what_is_drawn_and_are_nested(classes: int):
    degrees = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    labels = {degree: permute_classes(classes, degree, 7, "mnist") for degree in degrees}
    moved = [set(np.flatnonzero(values != np.arange(classes)).tolist()) for values in labels.values()]
    assert all(sorted(values) == [*range(classes)] for values in labels.values())
    assert [len(places) for places in moved] == [0, *(max(2, round(q * classes + 1e-9)) for q in degrees[1:])]
    assert all(before <= after for before, after in pairwise(moved))
    cycle = [0]
    while (following := int(labels[1.0][cycle[-1]])) != 0:
        cycle.append(following)
    assert len(cycle) == classes, "one circle of all classes"
    others = [permute_classes(24, 0.5, *key) for key in ((8, "mnist"), (7, "street"))]
    assert not any(np.array_equal(permute_classes(24, 0.5, 7, "mnist"), other) for other in others)


def test_every_source_is_paired_with_its_conflicts_and_the_next_tasks():
    tasks = ("a", "b", "c", "d")
    pairs = pair_tasks(tasks, Params(sources=[1, 3, 4], degrees=[0.0, 0.25], partners=2, seed=0))
    assert [(*pair,) for pair in pairs] == [
        ("b", "b-0", 0.0), ("b", "b-0.25", 0.25), ("b", "c", None), ("b", "d", None),
        ("d", "d-0", 0.0), ("d", "d-0.25", 0.25), ("d", "a", None), ("d", "b", None),
    ]  # fmt: skip
    few = Params(sources=[1, 4], degrees=[1.0], partners=9, seed=0)
    with pytest.raises(TooFewSources, match=r"sources = \[1, 4\]: expected at least two positions below 4.*a, b, c, d"):
        pair_tasks(tasks, few)
    assert [pair.partner for pair in pair_tasks((*tasks, "e"), few) if pair.source == "b"][1:] == ["c", "d", "e", "a"]


@pytest.mark.parametrize(
    "changes",
    [{"sources": [0]}, {"sources": [1, 0]}, {"degrees": []}, {"degrees": [0.5, 0.5]}, {"degrees": [1.1]}, {"seed": -1}],
)
def test_impossible_pairs_are_refused(changes: dict[str, object]):
    with pytest.raises(ValidationError):
        Params.model_validate({**PARAMS.model_dump(), **changes})


def test_experts_are_trained_on_permuted_labels_from_the_base(embedded: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(training, "fit", lambda *arguments: calls.append(arguments))
    weights = [study.train_permuted(embedded, "signs", degree, RECIPE, 3) for degree in (0.0, 1.0)]
    suite = SuiteFolder(embedded)
    base = {name: suite.base()[name] for name in suite.suite.groups}
    assert all(toy.same(dict(sorted(trained.items())), dict(sorted(base.items()))) for trained in weights)
    for (_, tuned, head, (images, labels), recipe, _, _), degree in zip(calls, (0.0, 1.0), strict=True):
        assert torch.equal(head, suite.heads()["signs"])
        assert np.array_equal(images, suite.examples("train", "signs"))
        assert np.array_equal(labels, permute_classes(12, degree, 3, "signs")[suite.labels("train", "signs")])
        assert (recipe, sum(tensor.numel() for tensor in tuned)) == (RECIPE, sum(map(torch.numel, base.values())))
    states = [rng.get_state() for *_, rng, _ in calls]
    assert torch.equal(*states), "the same batches for every degree"
    assert not torch.equal(states[0], training.draws("expert", "signs", 3).get_state())


def test_conflicting_tasks_share_images_and_head_but_not_labels(ran: tuple[Job, pd.DataFrame], embedded: Path):
    suite = SuiteFolder(ran[0].outputs[0].parent / "conflicts-3")
    original = SuiteFolder(embedded)
    assert suite.suite.task_names == (*TRAINED, *(f"{task}-{q}" for task in TRAINED for q in KINDS))
    for task in TRAINED:
        assert suite.expert(task)["conv1.weight"].equal(original.expert(task)["conv1.weight"])
        experts = [suite.expert(f"{task}-{q}")["conv1.weight"].numpy().tobytes() for q in KINDS]
        assert len({suite.expert(task)["conv1.weight"].numpy().tobytes(), *experts}) == 4
        for split in ("train", "validation", "test"):
            for q in KINDS:
                permuted = permute_classes(len(original.heads()[task]), float(q), 3, task)
                assert np.array_equal(suite.examples(split, f"{task}-{q}"), original.examples(split, task))
                expected = permuted[original.labels(split, task)]
                assert np.array_equal(suite.labels(split, f"{task}-{q}"), expected)
                assert suite.heads()[f"{task}-{q}"].equal(original.heads()[task])


def test_every_pair_is_scored_by_every_method(ran: tuple[Job, pd.DataFrame]):
    frame = ran[1]
    assert tuple(frame) == COLUMNS
    for (source, partner), pair in frame.groupby(["source", "partner"]):
        expected = [*["bound"] * partner.startswith(f"{source}-"), "individual", *METHODS]
        assert [(row.method, row.task) for row in pair.itertuples()] == [
            (method, task) for method in expected for task in (source, partner)
        ]
    assert len(frame.groupby(["source", "partner"])) == 2 * (3 + 1)
    learned = frame.method.isin(["adamerging", "distillation", "samerging"])
    assert (frame.seed[learned] == 3).all() and (frame.samples[learned] == 6).all()
    assert frame.seed[~learned].isna().all() and (frame.samples[~learned] == 0).all()
    assert frame.loss.notna().equals(~frame.method.isin(["bound", "individual"]))


def test_no_merge_is_above_the_bound_and_all_answer_both_tasks_alike(ran: tuple[Job, pd.DataFrame]):
    frame = ran[1]
    for (source, partner, degree), pair in frame[frame.degree.notna()].groupby(["source", "partner", "degree"]):
        right = {(row.method, row.task): bits(row.right, row.total) for row in pair.itertuples()}
        alike = right["bound", partner]
        assert right["bound", source].all()
        assert alike.all() == (degree == 0)
        for method in METHODS:
            first, second = right[method, source], right[method, partner]
            assert np.array_equal(first[alike], second[alike])
            assert not (first & second)[~alike].any()
            assert (first.mean() + second.mean()) / 2 <= 1 - (~alike).mean() / 2


def test_loss_and_entropy_of_the_average_are_those_of_other_code(ran: tuple[Job, pd.DataFrame]):
    job, frame = ran
    suite = SuiteFolder(job.outputs[0].parent / "conflicts-3")
    pair = ("signs", "signs-1")
    merged = {name: torch.stack([suite.expert(task)[name] for task in pair]).mean(0) for name in suite.suite.groups}
    encoder, base = suite.suite.encoder(), dict(suite.base())
    for task in pair:
        indices = sample_indices(24, 6, 3, task)
        images, head = torch.from_numpy(np.array(suite.examples("train", task)))[indices], suite.heads()[task]
        teacher = (encoder({**base, **suite.expert(task)}, images) @ head.T).double()
        student = (encoder({**base, **merged}, images) @ head.T).double()
        p, q = (scipy.special.softmax(logits.numpy() / 2, axis=1) for logits in (teacher, student))
        row = frame[(frame.partner == "signs-1") & (frame.method == "average") & (frame.task == task)].iloc[0]
        assert row.loss == pytest.approx(scipy.special.rel_entr(p, q).sum(1).mean(), rel=1e-3)
        surprise = scipy.stats.entropy(scipy.special.softmax(student.numpy(), axis=1), axis=1)
        assert row.entropy == pytest.approx(surprise.mean(), rel=1e-4)


def test_an_interrupted_study_trains_only_the_missing_experts(embedded: Path, tmp_path: Path, monkeypatch):
    trained, fit = [], training.fit

    def fit_or_interrupt(*arguments):
        trained.append(arguments[3][1].tobytes())
        if len(trained) == 2:
            raise KeyboardInterrupt
        fit(*arguments)

    monkeypatch.setattr(training, "fit", fit_or_interrupt)
    params = Params(sources=[0, 1], degrees=[1.0], partners=1, seed=3)
    with pytest.raises(KeyboardInterrupt):
        stage.run(make_job(embedded, tmp_path / "first", **{"study.conflict": params}))
    (tmp_path / "first" / "cells").rename(tmp_path / "cells")
    resumed = make_job(embedded, tmp_path / "second", **{"study.conflict": params})
    (tmp_path / "cells").rename(tmp_path / "second" / "cells")
    stage.run(resumed)
    assert len(trained) == 3 and trained[1] == trained[2] != trained[0]


def test_a_suite_of_other_experts_has_a_header_and_no_rows(embedded: Path, tmp_path: Path):
    recipe = lora.Recipe(
        seed=0, train_images=24, validation_images=16, test_images=20, width=32, layers=1, rank=2, expert_steps=2,
        expert_batch=4, expert_lr=0.001,
    )  # fmt: skip
    job = make_job(embedded, tmp_path, **{"recipe.{suite}": recipe})
    stage.run(job)
    assert (job.outputs[0] / "rows.csv").read_text() == f"{','.join(COLUMNS)}\n"


def bits(right: str, total: int) -> np.ndarray:
    """Which examples were answered rightly."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8))[:total].astype(bool)


def made_labels(source: str) -> np.ndarray:
    """The labels of the examples of `made_up`."""
    return np.random.default_rng(len(source)).integers(10, size=SIZES[source])


def made_up() -> pd.DataFrame:
    """Scores of merges that answer a share of the images as the source labels them, and a share as its conflict does.

    All find the same images hard; without conflict they answer both shares.
    """
    rng, rows = np.random.default_rng(2), []
    hard = {task: rng.permutation(size) / size for task, size in SIZES.items()}
    for place, source in enumerate(SIZES):
        others = [*SIZES][place + 1 :] + [*SIZES][:place]
        for partner in (*(f"{source}-{q}" for q in KINDS), *others):
            degree = partner.removeprefix(f"{source}-") if partner not in SIZES else ""
            labels = made_labels(source)
            alike = permute_classes(10, float(degree or 0), 3, source)[labels] == labels
            known = (source, partner)
            answers = {"bound": (alike | True, alike)} if degree else {}
            rates = hard[source]
            other = rates if degree else hard[partner]
            answers["individual"] = (rates < 0.95, other < (0.92 if degree else 0.95))
            for method, (first, second) in SHARES.items():
                both, only = rates < first + second, rates < first
                if degree:
                    answers[method] = (only | (both & alike), (both & alike) | (both & ~only & ~alike))
                else:
                    answers[method] = (both, other < first + second)
            for method, rights in answers.items():
                for task, right in zip(known, rights, strict=True):
                    measures = ("", "") if method in ("bound", "individual") else (len(method) + alike.sum(), place + 1)
                    learned = method in LEARNED
                    marks = int(right.sum()), len(right), np.packbits(right).tobytes().hex()
                    seeded = (3, 6) if learned else (None, 0)
                    rows.append((*known, degree, "s", method, task, *seeded, *marks, *measures))
    frame = pd.DataFrame(rows, columns=COLUMNS)
    numbers = {name: pd.to_numeric(frame[name]) for name in ("degree", "loss", "entropy")}
    return frame.assign(**numbers)


def context() -> Context:
    """Context of the report on the suite of `made_up`."""
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    return Context("s", (*SIZES,), titles, 40.0, 95.0, dict.fromkeys(SIZES, 95.0), "train", "test", {}, 6.5, 1)


def test_the_view_states_bound_and_averages():
    study_view = view(made_up(), context())
    two = {
        q: np.mean([100 * (permute_classes(10, float(q), 3, task)[made_labels(task)] != made_labels(task)).mean()
                    for task in SIZES])
        for q in KINDS
    }  # fmt: skip
    assert two["0"] == 0 and two["1"] == 100
    expected = [f"q = {q}: {share:.1f} %, at most {100 - share / 2:.1f} %, experts 93." for q, share in two.items()]
    assert all(part in study_view.sentences[0] for part in expected)
    assert "(n = 3 sources, 260 test examples)" in study_view.sentences[0]
    table = study_view.tables["accuracy"].rows.set_index("Method")
    assert table.loc["Images with two labels", "q = 0.5"] == f"{two['0.5']:.1f}"
    # All labels differ: the average is half of what is answered as either task labels it.
    assert float(table.loc["Distillation", "q = 1"]) == pytest.approx(100 * (0.6 + 0.3) / 2, abs=0.6)
    assert float(table.loc["Distillation", "No conflict"]) == pytest.approx(90, abs=0.6)
    pairs = study_view.tables["pairs"].rows.set_index("Pair")
    expected = {"Two labels": "100.0", "Bound": "50.0", "AdaMerging": "45.0", "TIES": "40.0", "Loss": "12.000"}
    assert pairs.loc["bb, q = 1", [*expected]].to_dict() == expected
    assert len(pairs) == len(SIZES) * len(KINDS)
    assert study_view.sentences[1].startswith("Points below the bound at q = 1: Simple average +")
    assert "AdaMerging +5.00 [" in study_view.sentences[1], "50 - 90 / 2"


def test_the_view_says_which_task_is_served_and_what_warns():
    sentences = view(made_up(), context()).sentences
    (served,) = (sentence for sentence in sentences if sentence.startswith("Which task is served"))
    assert "AdaMerging 90.0 (3 : 0)" in served
    assert "TSV-M 60.0 (0 : 3)" in served
    (sharp,) = (sentence for sentence in sentences if sentence.startswith("SAMerging minus Distillation"))
    assert sharp.count("+0.00 [+0.00, +0.00], over sources [+0.00, +0.00], not shown") == 3
    changes = next(sentence for sentence in sentences if sentence.startswith("AdaMerging, conflicting pairs"))
    assert "q = 0: +0.00 [+0.00, +0.00], over sources [+0.00, +0.00], not shown" in changes
    assert changes.count("], shown") == 2
    warnings = [sentence for sentence in sentences if "unlabelled images" in sentence]
    assert len(warnings) == 4
    assert "q = 0: +0.000 [+0.000, +0.000], not shown" in warnings[0]
    assert warnings[0].count("], shown") == 2
    assert warnings[3].count("], not shown") == 3


def test_the_view_says_who_loses_more():
    study_view = view(made_up(), context())
    named = study_view.contrasts
    for q in KINDS:
        gaps = [named[f"change: {name}, {q}"].these.mean for name in ("distillation", "adamerging")]
        assert named[f"more: adamerging, {q}"].these.mean == pytest.approx(gaps[0] - gaps[1])
    assert len(named) == 3 * (7 + 7 + 6 + 1 + 7)
    assert (
        "How much less Distillation loses to conflict than another method, in points at q = 1: Simple average"
        in (study_view.sentences[9])
    )


def test_the_figure_has_a_line_per_method_and_reproducible_bytes():
    figure = view(made_up(), context()).figures["conflict"].figure
    left, right = figure.axes
    lines = [line for line in left.lines if len(line.get_xdata()) > 1]
    assert [len(lines), len(right.lines)] == [2 + len(METHODS), len(METHODS)]
    assert lines[0].get_ydata()[-1] == 50
    again = view(made_up(), context()).figures["conflict"].figure
    assert render_figure(figure, "svg", "x", 100) == render_figure(again, "svg", "x", 100)
