"""Language: losses, completions and answers against plain oracles; the view and the audit of made-up rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline import methods
from pipeline.audit.intervals import bound_grids
from pipeline.merges import storage
from pipeline.models.suite import SPLITS, Suite, SuiteFolder, Task
from pipeline.report.studies import Context
from pipeline.report.studies.language import measure_difference, view
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.steps import merge as merge_step
from pipeline.studies.language import (
    COLUMNS,
    MEASURES,
    Model,
    Params,
    Span,
    complete,
    find_answer,
    measure_texts,
    predict_tokens,
    repeats,
    sample_texts,
    score_language,
)
from stages.studies import language as stage
from tests.support import toy_texts

pytestmark = pytest.mark.usefixtures("one_process")

CHARACTERS = "\n0123456789+="
LENGTH = 17
LM = {**toy_texts.MODELS["gpt2"], "vocabulary": len(CHARACTERS), "positions": LENGTH}
PARAMS = Params(texts=6, completion=8, characters=3, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of language models with random weights: two domains, of sums and of digits."""
    folder, rng = tmp_path_factory.mktemp("language") / "lm", torch.Generator().manual_seed(1)
    base = toy_texts.draw_weights(LM)
    groups = tuple(name for name in base if "embedding" not in name)
    tasks = tuple(Task(name=name, classes=tuple(CHARACTERS)) for name in ("arithmetic", "digits"))
    store.write_tensors(folder / "base.safetensors", base)
    store.write_tensors(folder / "heads.safetensors", {task.name: base["word_embedding"].clone() for task in tasks})
    for task in tasks:
        moved = {name: base[name] + 0.2 * torch.randn(base[name].shape, generator=rng) for name in groups}
        store.write_tensors(folder / "experts" / f"{task.name}.safetensors", moved)
        for split in SPLITS:
            texts = draw_lines(task.name, 9, len(split))
            store.write_array(folder / "texts" / split / f"{task.name}.npy", texts[:, :-1].copy())
            store.write_array(folder / "labels" / split / f"{task.name}.npy", texts[:, -1].astype(np.int64))
    store.write_array(folder / "general.npy", draw_lines("digits", 7, 99))
    Suite(name="lm", tasks=tasks, model=LM, groups=groups).save(folder)
    return folder


def draw_lines(domain: str, count: int, seed: int) -> np.ndarray:
    """Texts of LENGTH + 1 tokens: sums, or digits and ends of lines."""
    rng = np.random.default_rng(seed)
    sums = "".join(f"{a}+{b}={a + b}\n" for a, b in rng.integers(10, size=(9 * count, 2)).tolist())
    text = sums if domain == "arithmetic" else "".join(rng.choice(list(CHARACTERS[:11]), (LENGTH + 1) * count))
    ids = [CHARACTERS.index(character) for character in text[: (LENGTH + 1) * count]]
    return np.array(ids, np.int32).reshape(count, LENGTH + 1)


def model_of(folder: Path, expert: str | None = None) -> Model:
    """The base of a suite, or an expert."""
    suite = SuiteFolder(folder)
    weights = {**dict(suite.base()), **(dict(suite.expert(expert)) if expert else {})}
    return Model(suite.suite.encoder(), weights, suite.heads()["digits"])


def next_logits(model: Model, prefix: list[int]) -> torch.Tensor:
    """The logits of the token after a text, from that text alone."""
    ids = torch.tensor([prefix], dtype=torch.int32)
    return (model.encoder(model.weights, ids) @ model.head.T)[0]


def go_on(model: Model, prompt: list[int], steps: int) -> list[int]:
    """Greedy decoding, text by text."""
    ids = [*prompt]
    for _ in range(steps):
        ids.append(int(next_logits(model, ids).argmax()))
    return ids[len(prompt) :]


def test_losses_are_those_of_every_prefix_alone(folder: Path):
    model, texts = model_of(folder), draw_lines("arithmetic", 3, 5)
    losses, tokens = predict_tokens(model, texts)
    for row, text in enumerate(texts.tolist()):
        for place in range(1, LENGTH + 1):
            logits = next_logits(model, text[:place])
            expected = float(cross_entropy(logits, torch.tensor(text[place])))
            assert losses[row, place - 1] == pytest.approx(expected, abs=1e-4)
            assert tokens[row, place - 1] == int(logits.argmax())


def test_completions_are_greedy_whatever_else_is_completed(folder: Path):
    model, texts = model_of(folder), draw_lines("digits", 5, 6)
    prompts = [text[:length] for text, length in zip(texts, (1, 4, 9, 9, 12), strict=True)]
    expected = [go_on(model, prompt.tolist(), 6) for prompt in prompts]
    assert complete(model, prompts, 6).tolist() == expected
    assert complete(model, prompts[:2], 6).tolist() == expected[:2]


def test_the_last_four_tokens_repeat_if_they_occurred_twice_before():
    assert repeats(np.array([1, 2, 3, 4] * 3))
    assert not repeats(np.array([1, 2, 3, 4] * 2))
    assert repeats(np.array([7] * 6))
    assert not repeats(np.array([7] * 5))
    assert not repeats(np.array([1, 2, 3, 4, 9, 1, 2, 3, 4, 8, 1, 2, 3, 5]))
    assert not repeats(np.arange(4))


def test_an_answer_is_that_of_the_last_whole_line():
    assert find_answer("4=4\n1+2=3\n5+", "=") == Span(8, 10)
    assert find_answer("4=4\n1+2=3\n", "=") == Span(8, 10)
    assert find_answer("1+2=3\n5+", "=") is None  # the first line may have begun earlier
    assert find_answer("4=4\n12\n5+", "=") is None
    assert find_answer("1+2=", "=") is None
    assert find_answer("x\n2021-03-05 is 5 March 2021\n20", " is ") == Span(16, 29)


def test_measures_by_hand(folder: Path):
    model, reference = model_of(folder, "digits"), model_of(folder)
    texts = draw_lines("digits", 4, 8)
    texts[0, 10:] = [CHARACTERS.index("5")] * 8
    prompt = texts[1, :15].tolist()
    texts[1, 15:] = go_on(model, prompt, 3)
    texts[2, 14:16] = go_on(model, texts[2, :14].tolist(), 2)
    places = [Span(15, 18), Span(15, 18), Span(14, 16), None]
    measured = pd.DataFrame(measure_texts(model, reference, texts, places, 8), columns=list(MEASURES))
    losses, tokens = predict_tokens(model, texts)
    np.testing.assert_allclose(measured.nats, losses.mean(1))
    np.testing.assert_allclose(measured.agreement, (tokens == predict_tokens(reference, texts)[1]).mean(1))
    assert measured.exact[1:3].tolist() == [1, 1]
    assert measured.exact[0] == (go_on(model, texts[0, :15].tolist(), 3) == texts[0, 15:].tolist())
    assert np.isnan(measured.exact[3])
    assert measured.original.tolist() == [1, *(float(repeats(text[10:])) for text in texts[1:])]
    assert measured.repeated.tolist() == [
        float(repeats(np.array(go_on(model, text[:10].tolist(), 8)))) for text in texts
    ]


@pytest.fixture
def artefacts(folder: Path, tmp_path: Path) -> list[Path]:
    """Merges of the suite: coefficients of one model and of T, a delta."""
    suite, folders = SuiteFolder(folder), []
    for name in ("zeroshot", "individual", "ties"):
        method = methods.load(name)
        merges = merge_step.merge_data_free(method, suite.vectors(), method.Params(), suite.suite.task_names)
        folders.append(tmp_path / "merges" / name)
        storage.save(merges, folders[-1])
    return folders


def test_rows_of_the_base_and_of_the_experts(folder: Path, artefacts: list[Path], tmp_path: Path):
    rows = pd.DataFrame(
        score_language(folder, artefacts, "test", PARAMS, Resumable(tmp_path / "work")), columns=COLUMNS
    )
    assert len(rows) == 3 * 3 * 6
    assert [*dict.fromkeys(rows.domain)] == ["arithmetic", "digits", "general"]
    assert (rows.agreement[(rows.method == "zeroshot") & (rows.domain == "general")] == 1).all()
    assert (rows.agreement[(rows.method == "individual") & (rows.domain != "general")] == 1).all()
    general = sample_texts(SuiteFolder(folder), "test", "general", PARAMS)
    places = [Span(15, 18)] * 6
    by_expert = [
        measure_texts(model_of(folder, task), model_of(folder), general, places, 8) for task in ("arithmetic", "digits")
    ]
    experts = rows[(rows.method == "individual") & (rows.domain == "general")]
    np.testing.assert_allclose(experts[list(MEASURES)].astype(float), np.mean(by_expert, axis=0), rtol=1e-3)
    texts = sample_texts(SuiteFolder(folder), "test", "arithmetic", PARAMS)
    place = find_answer("".join(CHARACTERS[token] for token in texts[0]), "=")
    assert place is not None
    answer = go_on(model_of(folder), texts[0, : place.start].tolist(), place.end - place.start)
    base = rows[(rows.method == "zeroshot") & (rows.domain == "arithmetic")]
    assert base.exact.iloc[0] == (answer == texts[0, place.start : place.end].tolist())


def test_a_suite_of_other_models_has_no_rows_and_no_section(text_suite: Path, tmp_path: Path):
    assert score_language(text_suite, [], "test", PARAMS, Resumable(tmp_path)) == []


def test_completions_longer_than_the_texts_are_refused(folder: Path, tmp_path: Path):
    params = PARAMS.model_copy(update={"completion": 18})
    with pytest.raises(BenchmarkError, match="study language: completions of 18 tokens, but texts have 18, and one"):
        score_language(folder, [], "test", params, Resumable(tmp_path))


def test_the_stage_writes_a_row_per_method_domain_and_text(folder: Path, artefacts: list[Path], tmp_path: Path):
    folders = [shutil.copytree(artefacts[0], tmp_path / "all" / name) for name in stage.METHODS]
    output = tmp_path / "language"
    params = {"evaluation_split": "test", "study.language": PARAMS}
    stage.run(Job({"suite": "lm"}, params, (folder, *folders), (output,), Resumable(tmp_path / "work")))
    rows = pd.read_csv(output / "rows.csv")
    assert tuple(rows.columns) == COLUMNS
    assert len(rows) == len(stage.METHODS) * 3 * 6


TITLES = {
    "zeroshot": "Zero-shot", "individual": "Experts", "average": "Average", "ties": "TIES", "adamerging": "AdaMerging",
    "expert_merging": "Expert Merging", "distillation": "Distillation", "samerging": "SAMerging",
}  # fmt: skip
LEVELS = {
    "zeroshot": 2.0, "individual": 1.0, "average": 1.6, "ties": 1.5, "adamerging": 1.4, "expert_merging": 1.2,
    "distillation": 1.1, "samerging": 1.1,
}  # fmt: skip
SEEDED = ("adamerging", "expert_merging", "distillation", "samerging")


def context() -> Context:
    return Context("s", ("dates", "news"), TITLES, 40.0, 90.0, {}, "train", "test", {}, 6.5, 1)


def made_up(change: Callable[[pd.DataFrame], pd.Series] | None = None, noise: float = 0.0) -> pd.DataFrame:
    """Rows of ten texts of two domains and general text; `change`: to the loss, by row."""
    rng = np.random.default_rng(0)
    rows = [
        (
            domain,
            method,
            seed,
            text,
            level + 0.1 * text + noise * rng.normal(),
            0.5,
            int(text < 5 * level),
            0,
            text == 0,
        )
        for domain in ("dates", "news", "general")
        for method, level in LEVELS.items()
        for seed in ((0, 1) if method in SEEDED else (None,))
        for text in range(10)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"original": int})
    return frame if change is None else frame.assign(nats=frame.nats + change(frame))


def test_verdicts_follow_sign_and_interval():
    sentences = view(made_up(), context()).sentences
    assert "Distillation minus AdaMerging -0.300 [-0.300, -0.300] (better), minus Expert Merging -0.100" in sentences[0]
    assert "minus TIES, the best without data, -0.400 [-0.400, -0.400] (better) (n = 2 seeds" in sentences[0]
    assert (
        "Sharpness: SAMerging minus Distillation is +0.000 [+0.000, +0.000] (no difference shown) nats" in sentences[2]
    )
    assert "above that of Zero-shot: Distillation -0.900 [-0.900, -0.900] (better)" in sentences[3]
    assert sentences[4].endswith("continuations 10.0 %. Distillation minus Experts: +0.00 [+0.00, +0.00] "
                                 "(no difference shown) points.")  # fmt: skip
    worse = made_up(lambda rows: 0.5 * (rows.method == "distillation"))
    assert "minus AdaMerging +0.200 [+0.200, +0.200] (worse)" in view(worse, context()).sentences[0]
    mixed = made_up(lambda rows: (rows.method == "distillation") * np.where(rows.text < 5, 0.6, 0.0))
    assert "minus AdaMerging +0.000 [" in view(mixed, context()).sentences[0]
    assert "(no difference shown), minus Expert Merging +0.200 [" in view(mixed, context()).sentences[0]


def test_the_table_has_perplexities_and_shares():
    (frame,) = view(made_up(), context()).tables.values()
    table = frame.rows.set_index("Method")
    assert [*table.columns] == [
        "dates", "news", "general", "Agreement", "Exact, generated", "Exact, other", "Repeats"
    ]  # fmt: skip
    assert table.loc["TIES", "dates"] == f"{np.exp(1.5 + 0.45):.2f}"
    assert table.loc["Distillation", "general"] == f"{np.exp(1.1 + 0.45):.2f} ± 0.00"
    assert table.loc["TIES", ["Agreement", "Exact, generated", "Exact, other", "Repeats"]].tolist() == [
        "50.0", "80.0", "80.0", "0.0"
    ]  # fmt: skip
    assert "30 texts of 2 domains and of general text; 2 seeds" in frame.caption


def test_texts_without_an_answer_do_not_count():
    rows = made_up()
    rows.loc[(rows.domain == "dates") & (rows.text >= 5), "exact"] = np.nan
    (frame,) = view(rows, context()).tables.values()
    assert frame.rows.set_index("Method").loc["TIES", "Exact, generated"] == "100.0"


@pytest.mark.parametrize("shape", [(3, (8, 5)), (1, (4, 6)), (2, (1, 3))])
def test_intervals_over_seeds_and_texts_agree_with_those_of_the_audit(shape: tuple[int, tuple[int, int]]):
    rng = np.random.default_rng(1)
    grids = {str(index): rng.normal(size=(shape[0], texts)) for index, texts in enumerate(shape[1])}
    difference = measure_difference(grids)
    assert difference.mean == pytest.approx(np.mean([grid.mean() for grid in grids.values()]), abs=1e-9)
    low, high, _ = bound_grids([*grids.values()])
    assert (difference.low, difference.high) == pytest.approx((low, high), abs=1e-9)
