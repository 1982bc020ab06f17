"""Label spaces: label sets, objectives in closed form, constructed tasks, and the view of made-up scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import average_precision_score
from torch.nn.functional import binary_cross_entropy_with_logits, kl_div, logsigmoid

from pipeline import methods
from pipeline.calibration.objectives import distillation, entropy
from pipeline.embedded import training
from pipeline.methods import samerging
from pipeline.models.suite import SuiteFolder
from pipeline.report.studies import Context
from pipeline.report.studies.label_spaces import view
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.schema import Schedule
from pipeline.runtime.stage import Job
from pipeline.steps.calibrate import Setting, calibrate, draw_indices, load_problem
from pipeline.studies import label_spaces as study
from pipeline.studies._constructed import permute_classes
from pipeline.studies.label_spaces import (
    COLUMNS,
    DomainPair,
    PairsError,
    Params,
    extend_objective,
    list_labels,
    pair_domains,
)
from pipeline.suites import lora
from stages.studies import label_spaces as stage
from tests.support.embedded import RECIPE, train_suite

pytestmark = pytest.mark.usefixtures("one_process")

TRAINED = ["textures", "signs", "greek"]
PARAMS = Params(
    others={"news": ["films", "tweets"], "topics": ["tweets", "films"], "textures": ["signs", "greek"],
            "signs": ["greek", "textures"]},
    related=[["news", "topics"]], labels=[1, 2], seed=3,
)  # fmt: skip
LEARNED = ("adamerging", "distillation", "samerging")
METHODS = ("average", "task_arithmetic", "ties", "tsv_m", *LEARNED)
SIZES = {"a": 80, "bb": 100, "ccc": 80}
SHARES = {
    "individual": (0.95, 0.9), "average": (0.5, 0.4), "task_arithmetic": (0.5, 0.3), "ties": (0.7, 0.1),
    "tsv_m": (0.6, 0.6), "adamerging": (0.9, 0.2), "distillation": (0.7, 0.6), "samerging": (0.7, 0.6),
}  # fmt: skip
"""{method: shares of right answers on the sources, and on label sets}, with a partner on the same domain."""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded suite of two tasks."""
    return train_suite(tmp_path_factory.mktemp("embedded"), TRAINED)


def make_job(embedded: Path, folder: Path, **changes: object) -> Job:
    """Make a small job of the stage."""
    values = {key: methods.load(key.partition(".")[2]).Params() for key in (*stage.FREE, *stage.BASELINES)}
    values |= samerging.Params().model_dump()
    values |= {"schedule.{suite}": Schedule(lr=0.01, steps=2, batch_size=2), "calibration_split": "train"}
    values |= {"precision": "float32", "samples_per_task": 6, "evaluation_split": "test"}
    values |= {"recipe.{suite}": RECIPE, "study.label_spaces": PARAMS}
    output = folder / "scratch" / "label_spaces"
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


@pytest.mark.parametrize("labels", [1, 3, 9])
def test_an_image_has_its_class_and_what_follows_on_a_circle(labels: int):
    sets, following = list_labels(10, labels, 7, "mnist"), permute_classes(10, 1.0, 7, "mnist")
    assert (sets.sum(0) == labels).all() and (sets.sum(1) == labels).all() and sets.diagonal().all()
    assert np.array_equal(list_labels(10, labels + 1, 7, "mnist"), sets | sets[following])


def test_pairs_on_one_domain_come_before_those_of_two():
    tasks = ("news", "films", "topics", "tweets")
    assert [(*pair,) for pair in pair_domains(tasks, PARAMS, constructs=False)] == [
        ("news", "topics", "related", 0), ("news", "films", "other-1", 0), ("news", "tweets", "other-2", 0),
        ("topics", "news", "related", 0), ("topics", "tweets", "other-1", 0), ("topics", "films", "other-2", 0),
    ]  # fmt: skip
    assert pair_domains(tasks[:2], PARAMS, constructs=False) == []
    assert pair_domains(TRAINED, PARAMS, constructs=False) == [], "nothing on one domain"
    made = pair_domains(TRAINED, PARAMS, constructs=True)
    assert [pair for pair in made if pair.labels] == [
        DomainPair(source, f"{source}-{m}-labels", f"labels-{m}", m) for source in ("textures", "signs") for m in (1, 2)
    ]


def test_sources_that_cannot_be_compared_are_refused():
    mixed = ("news", "films", "topics", "tweets", *TRAINED)
    with pytest.raises(
        PairsError, match="the sources are news, topics, textures, signs; expected at least two, either"
    ):
        pair_domains(mixed, PARAMS, constructs=True)
    single = PARAMS.model_copy(update={"others": {"signs": ["greek"]}})
    with pytest.raises(PairsError, match="the sources are signs; expected at least two"):
        pair_domains(TRAINED, single, constructs=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": []},
        {"labels": [0]},
        {"labels": [2, 1]},
        {"others": {"signs": []}},
        {"others": {"signs": ["signs"]}},
        {"others": {"signs": ["greek"], "greek": ["signs", "textures"]}},
        {"related": [["news", "news"]]},
        {"related": [["news"]]},
    ],
)
def test_impossible_parameters_are_refused(changes: dict[str, object]):
    with pytest.raises(ValidationError):
        Params.model_validate({**PARAMS.model_dump(), **changes})


def test_objectives_over_labels_are_sums_of_bernoulli_divergences_and_entropies():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (3 * torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    temperature, bias = 2.0, 1.5
    choices = study.split_labels(teacher, bias)
    pairs = [
        kl_div(logsigmoid(sign * (logits - bias) / temperature), logsigmoid(sign * (teacher - bias) / temperature),
               log_target=True, reduction="sum") / 5
        for sign in (1, -1)
    ]  # fmt: skip
    divergence = extend_objective(distillation(temperature), bias)
    assert torch.allclose(divergence(logits, choices), sum(pairs), rtol=1e-12)
    assert divergence(teacher, choices).abs() < 1e-12
    p = (logits - bias).sigmoid()
    expected = -(p * p.log() + (1 - p) * (1 - p).log()).sum(1).mean()
    assert torch.allclose(extend_objective(entropy, bias)(logits, choices), expected, rtol=1e-12)
    assert torch.equal(divergence(logits, teacher), distillation(temperature)(logits, teacher)), "one label: softmax"


def test_marks_and_average_precision_are_those_of_other_code():
    rng = np.random.default_rng(1)
    logits, classes = rng.normal(size=(40, 6)), rng.integers(5, size=40)
    sets = list_labels(6, 2, 0, "x")
    correct, total, right, precision = study.mark_logits(torch.from_numpy(logits), classes, sets, "x")
    expected = [
        {*np.argsort(row)[-2:]} == {*np.flatnonzero(sets[label])} for row, label in zip(logits, classes, strict=True)
    ]
    assert (correct, total) == (sum(expected), 40) and np.array_equal(bits(right, 40), expected)
    occurring = sets[classes].any(0)
    values = [average_precision_score(sets[classes][:, label], logits[:, label]) for label in np.flatnonzero(occurring)]
    assert float(precision) == pytest.approx(100 * np.mean(values), rel=1e-5)
    correct, _, right, precision = study.mark_logits(torch.from_numpy(logits), classes, None, "x")
    assert precision == "" and np.array_equal(bits(right, 40), logits.argmax(1) == classes)


def test_logits_that_are_not_finite_are_not_scored():
    with pytest.raises(BenchmarkError, match=r"^ties of a and b, b: the logits are not finite; nothing was scored$"):
        study.mark_logits(torch.tensor([[0.0, torch.nan]]), np.array([0]), None, "ties of a and b, b")


def test_experts_learn_label_sets_from_the_base(embedded: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(training, "fit", lambda *arguments: calls.append(arguments))
    study.train_labels(embedded, "signs", 2, RECIPE, 3)
    ((_, _, head, (images, targets), recipe, _, objective),) = calls
    suite = SuiteFolder(embedded)
    assert torch.equal(head, suite.heads()["signs"])
    assert np.array_equal(images, suite.examples("train", "signs"))
    assert np.array_equal(targets, list_labels(12, 2, 3, "signs")[suite.labels("train", "signs")])
    assert (recipe, targets.dtype) == (RECIPE, np.float32)
    images = torch.from_numpy(np.array(suite.examples("train", "signs")))
    logits = suite.suite.encoder()({**suite.base()}, images) @ head.T
    bias, truth = study.find_bias(suite, "signs", 2), torch.from_numpy(targets)
    assert int((logits > bias).sum()) == 2 * len(images), "as many labels as images have, on average"
    expected = binary_cross_entropy_with_logits(logits - bias, truth)
    assert torch.allclose(objective(logits, truth), expected, rtol=1e-5)


def test_more_labels_than_classes_are_refused_before_any_training(embedded: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_: pytest.fail("trained"))
    params = PARAMS.model_copy(update={"labels": [12]})
    with pytest.raises(PairsError, match=r"12 labels for an image of .*, which has \d+ classes"):
        stage.run(make_job(embedded, tmp_path, **{"study.label_spaces": params}))


def test_every_pair_is_scored_by_every_method(ran: tuple[Job, pd.DataFrame]):
    frame = ran[1]
    assert tuple(frame) == COLUMNS
    for (setting, source), pair in frame.groupby(["setting", "task"]):
        sides = ("source", "labels") if setting.startswith("labels") else ("source",)
        assert [(row.method, row.side) for row in pair.itertuples()] == [
            (method, side) for method in ("individual", *METHODS) for side in sides
        ], (setting, source)
    assert {*frame.setting} == {"labels-1", "labels-2", "other-1", "other-2"}
    learned = frame.method.isin(LEARNED)
    assert (frame.seed[learned] == 3).all() and (frame.samples[learned] == 6).all()
    assert frame.seed[~learned].isna().all() and (frame.samples[~learned] == 0).all()
    assert frame.average_precision.notna().equals(frame.side == "labels")
    same = frame[(frame.setting == "labels-1") & (frame.method != "individual")].groupby(["task", "method"])
    assert (same.right.nunique() == 1).all(), "one label: the class"


@pytest.mark.parametrize("partner", ["signs-2-labels", "greek"])
@pytest.mark.parametrize("method", LEARNED)
def test_multi_label_tasks_are_learned_through_sigmoids_and_others_by_the_method(
    ran: tuple[Job, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, partner: str, method: str
):
    job = ran[0]
    folder, params = job.outputs[0].parent, methods.load(method).Params()
    suite, schedule = folder / "label-spaces-3", Schedule(lr=0.01, steps=2, batch_size=2)
    pair = ("signs", partner)
    setting = Setting(suite, folder / "teachers/train", method, params, schedule, "train", "float32", pair)
    problems, descend = [], study.descend
    monkeypatch.setattr(study, "descend", lambda *given, **more: problems.append(given) or descend(*given, **more))
    solution = study.solve_pair(setting, 2 if partner.endswith("labels") else 0, 6, 3)
    expected = calibrate(setting, 6, 3)
    same = torch.equal(solution.coefficients, expected.coefficients)
    assert same == (partner == "greek")
    for problem, objective, *_ in problems:
        logits = load_problem(setting, draw_indices(setting.folder(), "train", 6, 3)).teachers
        assert torch.equal(problem.teachers[0], logits[0]) and torch.equal(problem.teachers[1][..., 0], logits[1])
        assert (problem.teachers[1][..., 1] == study.find_bias(setting.folder(), "signs", 2)).all()
        divergence = float(objective(logits[1], problem.teachers[1]))
        assert (divergence < 1e-5) == (method != "adamerging"), "no divergence of the teacher from itself"
    assert len(problems) == (partner != "greek")


def test_the_average_is_scored_as_by_other_code(ran: tuple[Job, pd.DataFrame]):
    job, frame = ran
    suite = SuiteFolder(job.outputs[0].parent / "label-spaces-3")
    pair = ("signs", "signs-2-labels")
    merged = {name: torch.stack([suite.expert(task)[name] for task in pair]).mean(0) for name in suite.suite.groups}
    images = torch.from_numpy(np.array(suite.examples("test", "signs")))
    features = suite.suite.encoder()({**suite.base(), **merged}, images)
    classes = suite.labels("test", "signs")
    rows = frame[(frame.partner == pair[1]) & (frame.method == "average")].set_index("side")
    right = (features @ suite.heads()["signs"].T).argmax(1).numpy() == classes
    assert rows.correct["source"] == right.sum()
    logits = (features @ suite.heads()["signs-2-labels"].T).numpy()
    truth = list_labels(12, 2, 3, "signs")[classes]
    present = truth.any(0)
    expected = 100 * average_precision_score(truth[:, present], logits[:, present])
    assert rows.average_precision["labels"] == pytest.approx(expected, rel=1e-4)


def test_a_suite_without_two_tasks_on_one_domain_has_a_header_and_no_rows(embedded: Path, tmp_path: Path):
    recipe = lora.Recipe(
        seed=0, train_images=24, validation_images=16, test_images=20, width=32, layers=1, rank=2, expert_steps=2,
        expert_batch=4, expert_lr=0.001,
    )  # fmt: skip
    job = make_job(embedded, tmp_path, **{"recipe.{suite}": recipe})
    stage.run(job)
    assert (job.outputs[0] / "rows.csv").read_text() == f"{','.join(COLUMNS)}\n"


def test_related_tasks_of_a_suite_are_merged_once_for_both(embedded: Path, tmp_path: Path, monkeypatch):
    calls, solve = [], study.solve_pair
    monkeypatch.setattr(study, "solve_pair", lambda *arguments: calls.append(arguments) or solve(*arguments))
    others = {"signs": ["greek"], "textures": ["greek"]}
    params = PARAMS.model_copy(update={"related": [["signs", "textures"]], "others": others})
    recipe = lora.Recipe(
        seed=0, train_images=24, validation_images=16, test_images=20, width=32, layers=1, rank=2, expert_steps=2,
        expert_batch=4, expert_lr=0.001,
    )  # fmt: skip
    job = make_job(embedded, tmp_path, **{"recipe.{suite}": recipe, "study.label_spaces": params})
    stage.run(job)
    frame = pd.read_csv(job.outputs[0] / "rows.csv")
    assert frame[["setting", "task", "partner"]].drop_duplicates().to_numpy().tolist() == [
        ["related", "textures", "signs"], ["other-1", "textures", "greek"],
        ["related", "signs", "textures"], ["other-1", "signs", "greek"],
    ]  # fmt: skip
    assert len(calls) == 3 * len(METHODS)


def bits(right: str, total: int) -> np.ndarray:
    """Which examples were answered rightly."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(right), np.uint8))[:total].astype(bool)


def made_up(related: bool = False) -> pd.DataFrame:
    """Scores of methods that answer a share of the images rightly; all find the same images hard.

    Merged with a task of another domain every method has 0.8; with one label, or a related task, the first of SHARES;
    with two labels 0.1 less, and the second on label sets.
    """
    rng, rows = np.random.default_rng(2), []
    settings = ["related"] if related else ["labels-1", "labels-2"]
    for place, (source, size) in enumerate(SIZES.items()):
        hard = rng.permutation(size) / size
        for setting in (*settings, "other-1", "other-2"):
            for method, (first, second) in SHARES.items():
                wanted = 0.8 if setting.startswith("other") else first - 0.1 * (setting == "labels-2")
                sides = {"source": 0.95 if method == "individual" else wanted}
                if setting.startswith("labels"):
                    sides["labels"] = second if setting == "labels-2" else wanted
                for side, share in sides.items():
                    right, learned = hard < share, method in LEARNED
                    marks = int(right.sum()), size, np.packbits(right).tobytes().hex()
                    precision = 100 * share + place if side == "labels" else None
                    partner = f"{source}-{setting[-1]}-labels" if setting.startswith("labels") else setting
                    run = ("s", method, source, *((3, 6) if learned else (None, 0)))
                    rows.append((setting, partner, side, *run, *marks, precision))
    return pd.DataFrame(rows, columns=COLUMNS)


def context() -> Context:
    """Context of the report on the suite of `made_up`."""
    titles = {name: methods.load(name).TITLE for name in methods.names()}
    return Context("s", (*SIZES, "d"), titles, 40.0, 95.0, dict.fromkeys(SIZES, 95.0), "train", "test", {}, 6.5, 1)


def test_the_view_states_what_changes_and_who_serves_both():
    study_view = view(made_up(), context())
    first, second, labels, pair, *others = study_view.sentences
    assert first.startswith("Accuracy on the source merged with a task of 1 label per image, minus the mean merged")
    assert "Simple average -30.00 [" in first and "AdaMerging +10.00 [" in first
    assert "(n = 3 sources, 260 test examples)" in first
    assert "a task of 2 labels per image" in second and "Simple average -40.00 [" in second
    assert labels.startswith(
        "Accuracy on the source merged with a task of 2 labels per image, minus that merged with a"
    )
    assert labels.count(" -10.00 [") == len(METHODS)
    # Distillation (0.6 + 0.6) / 2; the average (0.4 + 0.4) / 2; AdaMerging (0.8 + 0.2) / 2.
    assert pair.startswith("Mean accuracy of the source and a task of 2 labels per image when they are merged, Distil")
    assert "Simple average +20.00 [" in pair and "AdaMerging +10.00 [" in pair
    assert "SAMerging +0.00 [+0.00, +0.00], over sources [+0.00, +0.00], not shown" in pair
    assert len(study_view.contrasts) == 2 * 7 + 7 + 6
    assert [sentence.partition(" ")[0] for sentence in others] == ["Mean", "Mean", "25", "Intervals"]


def test_the_view_compares_average_precisions_over_sources():
    study_view = view(made_up(), context())
    (_, two) = [sentence for sentence in study_view.sentences if sentence.startswith("Mean average precision")]
    assert "experts 91.0 %, Distillation 61.0 %. Distillation minus another method" in two
    assert "TIES +50.00 [+50.00, +50.00], shown" in two and "TSV-M +0.00 [+0.00, +0.00], not shown" in two
    table = study_view.tables["accuracy"].rows.set_index("Method")
    expected = {
        "Other domains": "80.0", "1 label": "70.0", "1 label: mAP": "71.0", "2 labels": "60.0",
        "2 labels: label sets": "60.0", "2 labels: mAP": "61.0",
    }  # fmt: skip
    assert table.loc["Distillation"].to_dict() == expected
    assert [*study_view.tables["changes"].rows] == ["Method", "1 label", "2 labels"]


def test_the_view_of_a_suite_that_has_related_tasks_knows_no_label_sets():
    study_view = view(made_up(related=True), context())
    assert [*study_view.tables["accuracy"].rows] == ["Method", "Other domains", "Related"]
    assert "mAP" not in study_view.tables["accuracy"].caption
    change, pair, *others = study_view.sentences
    assert change.startswith(
        "Accuracy on the source merged with the related task, minus the mean merged with a task of"
    )
    assert "Mean accuracy of the source and the related task" in pair and "TIES +0.00 [" in pair
    assert len(others) == 2 and len(study_view.contrasts) == 7 + 6
