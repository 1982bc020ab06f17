"""The suite of GLUE is prepared from replicas of the repositories; logits are those of the models; faults are named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load, save

from pipeline import suites
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _glue_tasks, glue
from pipeline.suites._glue_texts import END, end_token, read_tokenizer
from tests.support import glue_replicas as replicas
from tests.support import hub_server

pytestmark = pytest.mark.long

hub = hub_server.hub
TASKS = _glue_tasks.GLUE_TASKS
TRAIN, TEST = 20, 6
RECIPE = glue.Recipe(seed=0, pool=8)
UNUSED = Path("no checkpoints")
"""In place of the output of stage train: this family trains nothing."""
Change = Callable[[dict[str, bytes]], object]
RTE, MNLI = TASKS["rte"], TASKS["mnli"]


@pytest.fixture(scope="module")
def repositories() -> dict[str, dict]:
    """{kind: {repository: files}} of the suite."""
    return {"model": replicas.checkpoints(positions=64), "dataset": replicas.data(TRAIN, TEST)}


@pytest.fixture
def local(repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of all repositories, whose test sizes the table expects."""
    for contents in repositories.values():
        for repo, files in contents.items():
            for name, content in files.items():
                path = tmp_path / repo / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    expect_small_splits(monkeypatch)
    return tmp_path


def expect_small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the table expect as many test texts as the replicas have."""
    small = {name: task.model_copy(update={"test_size": TEST}) for name, task in TASKS.items()}
    monkeypatch.setattr(_glue_tasks, "GLUE_TASKS", small)


def define(root: Path, tasks: tuple[str, ...] = ("mnli", "rte"), **changes: object) -> glue.Definition:
    """Define a suite of the files in `root`."""
    content = {
        "base": str(root / replicas.BASE),
        "data": str(root / replicas.DATA),
        "experts": {task: str(root / TASKS[task].checkpoint) for task in tasks},
        "max_length": 24,
        "tasks": [*tasks],
    }
    return glue.Definition.model_validate({**content, **changes})


def prepare(definition: glue.Definition, folder: Path) -> SuiteFolder:
    """Prepare a suite in a folder."""
    glue.prepare("glue", definition, RECIPE, UNUSED, folder)
    return SuiteFolder(folder)


def test_logits_are_those_of_the_published_models(local: Path):
    from transformers import GPT2ForSequenceClassification

    suite = prepare(define(local, tuple(TASKS)), local / "suite")
    base, encode = dict(suite.base()), suite.suite.encoder()
    for task in TASKS.values():
        public = GPT2ForSequenceClassification.from_pretrained(local / task.checkpoint).eval()
        texts = torch.from_numpy(np.array(suite.examples("test", task.name)))
        assert (texts < 0).any(), "padded"
        padded = texts.where(texts >= 0, public.config.pad_token_id).long()
        with torch.no_grad():
            expected = public(input_ids=padded, attention_mask=(texts >= 0).long()).logits
        logits = encode({**base, **suite.expert(task.name)}, texts) @ suite.heads()[task.name].T
        torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
        alone = encode({**base, **suite.expert(task.name)}, texts[:1, : int((texts[0] >= 0).sum())])
        torch.testing.assert_close(alone @ suite.heads()[task.name].T, expected[:1], rtol=1e-5, atol=1e-6)


def test_texts_are_tokenised_as_in_training(local: Path):
    from transformers import PreTrainedTokenizerFast

    suite = prepare(define(local, tuple(TASKS)), local / "suite")
    public = PreTrainedTokenizerFast(tokenizer_object=replicas.tokenizer(), pad_token=END, padding_side="right")
    longest, cut = 0, 0
    for task in TASKS.values():
        columns, labels = replicas.texts(task, task.test_split, TEST)
        encoded = public(*columns.values(), truncation=True, max_length=24)["input_ids"]
        whole = public(*columns.values())["input_ids"]
        stored = [[token for token in row if token >= 0] for row in suite.examples("test", task.name).tolist()]
        assert stored == encoded
        longest, cut = max(longest, *map(len, encoded)), cut + sum(len(ids) > 24 for ids in whole)
        assert suite.labels("test", task.name).tolist() == labels
    assert longest == 24
    assert cut
    short = prepare(define(local, ("cola", "sst2"), max_length=64), local / "short")
    texts = [short.examples(split, task) for split in SPLITS for task in ("cola", "sst2")]
    assert {part.shape[1] for part in texts} == {max(int((part >= 0).sum(1).max()) for part in texts)}


def test_a_pair_has_no_separator(local: Path):
    suite, tokenizer = prepare(define(local, max_length=64), local / "suite"), replicas.tokenizer()
    columns, _ = replicas.texts(MNLI, MNLI.test_split, TEST)
    first = [token for token in suite.examples("test", "mnli")[0].tolist() if token >= 0]
    assert first == tokenizer.encode(columns["premise"][0]).ids + tokenizer.encode(columns["hypothesis"][0]).ids
    assert end_token(read_tokenizer(local / replicas.BASE / "tokenizer.json", "base", 9)) not in first


def test_pools_are_disjoint_parts_of_the_training_split(local: Path):
    suite = prepare(define(local, max_length=64), local / "suite")
    for task in ("mnli", "rte"):
        pools = [{row.tobytes() for row in suite.examples(split, task)} for split in ("train", "validation")]
        assert [len(pool) for pool in pools] == [RECIPE.pool, TRAIN // 10]
        assert not pools[0] & pools[1]
        columns, labels = replicas.texts(TASKS[task], "train", TRAIN)
        encoded = replicas.tokenizer().encode_batch([*zip(*columns.values(), strict=True)])
        known = {tuple(text.ids): label for text, label in zip(encoded, labels, strict=True)}
        for split in ("train", "validation"):
            stored = [tuple(token for token in row if token >= 0) for row in suite.examples(split, task).tolist()]
            assert [known[ids] for ids in stored] == suite.labels(split, task).tolist()
    assert suite.suite.provenance["overlap"] == {task: {"train": 0, "validation": 0} for task in ("mnli", "rte")}


@pytest.mark.parametrize("merged", [True, False])
def test_embeddings_are_merged_or_left_out(local: Path, merged: bool):
    suite = prepare(define(local, merge_embeddings=merged), local / "suite")
    names = {"word_embedding", "positional_embedding"}
    assert names <= suite.base().keys()
    assert names & {*suite.suite.groups} == names & suite.expert("rte").keys() == (names if merged else set())
    assert len(suite.suite.groups) == 2 * 16 + 2 + 2 * merged
    assert ("embeddings too" in suite.suite.provenance["note"]) == merged


def test_the_published_suite_is_fetched_with_its_anchors(
    hub: hub_server.Hub, repositories: dict[str, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    expect_small_splits(monkeypatch)
    contents = {**repositories, "model": replicas.checkpoints()}
    for kind, repos in contents.items():
        for repo, files in repos.items():
            hub.push(kind, repo, files)
    _, definition = suites.load("glue7-gpt2")
    definition = definition.model_copy(update={"base_revision": "main", "data_revision": "main"})
    suite = prepare(definition, tmp_path / "suite").suite
    assert suite.task_names == tuple(TASKS)
    assert suite.model["architecture"] == "gpt2"
    assert "mean" not in json.loads((tmp_path / "suite/suite.json").read_text())
    fetched = {download["repo"]: download for download in suite.provenance["fetched"]}
    assert {*fetched} == {replicas.BASE, replicas.DATA, *(task.checkpoint for task in TASKS.values())}
    assert [file["name"] for file in fetched[replicas.DATA]["files"] if "mnli" in file["name"]] == [
        "mnli/train-00000-of-00001.parquet",
        "mnli/validation_matched-00000-of-00001.parquet",
    ]
    assert suite.provenance["anchors"]["rte"] == {"zeroshot": 52.7076, "individual": 65.3, "average": 44.8}
    assert len(suite.provenance["published"]) == 10 * 7
    for change, anchors in (
        ({"max_length": 128}, {}),
        ({"merge_embeddings": False}, {"zeroshot": 52.7076}),
        ({"tasks": ["rte", "mnli"]}, {"zeroshot": 52.7076, "individual": 65.3}),
    ):
        changed = definition.model_copy(update=change)
        assert glue._anchors(changed).get("rte", {}) == anchors
        assert (glue._published(changed) == []) == (change != {"merge_embeddings": False})


def edit(name: str, change: Callable[[dict], object]) -> Change:
    """Change a JSON file."""

    def apply(files: dict[str, bytes]) -> None:
        content = json.loads(files[name])
        change(content)
        files[name] = json.dumps(content).encode()

    return apply


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Change the tensors of a checkpoint."""

    def apply(files: dict[str, bytes]) -> None:
        tensors = load(files["model.safetensors"])
        change(tensors)
        files["model.safetensors"] = save(tensors)

    return apply


def retabulate(split: str, labels: list[int] | None = None, **columns: list[str | None]) -> Change:
    """Write a split of RTE again."""
    rows = TRAIN if split == "train" else TEST
    usual, numbers = replicas.texts(RTE, split, rows)
    content = replicas.table(RTE, {**usual, **columns}, labels or numbers)
    return lambda files: files.update({f"rte/{split}-00000-of-00001.parquet": content})


def with_text(text: str | None) -> list[str | None]:
    """The second texts of RTE's validation split, the third replaced."""
    usual = replicas.texts(RTE, "validation", TEST)[0]["sentence2"]
    return [*usual[:2], text, *usual[3:]]


def other_tokenizer(files: dict[str, bytes]) -> None:
    """Add a tokeniser with two ids exchanged."""
    content = json.loads(replicas.tokenizer().to_str())
    vocabulary = content["model"]["vocab"]
    first, second = [name for name in vocabulary if name.isalpha() and len(name) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    files["tokenizer.json"] = json.dumps(content).encode()


EARLY = [
    (RTE.checkpoint, edit("config.json", lambda c: c.update(model_type="bert")), "rte: .*gpt2_rte: .*'bert', expected"),
    (
        RTE.checkpoint,
        edit("config.json", lambda c: c.update(model_type="vit")),
        "rte: .*config.json: model_type 'vit'",
    ),
    (RTE.checkpoint, edit("config.json", lambda c: c.update(n_layer=3)), "layers 3, the base has 2; .*another base"),
    (RTE.checkpoint, edit("config.json", lambda c: c.update(vocab_size=301)), "vocabulary 301, the base has 300"),
    (RTE.checkpoint, edit("config.json", lambda c: c.update(activation_function="relu")), "activation_function 'relu'"),
    (RTE.checkpoint, edit("config.json", lambda c: c.update(pad_token_id=7)), "pad_token_id 7, expected 0, with which"),
    (
        RTE.checkpoint,
        edit("config.json", lambda c: c.update(id2label={"0": "a", "1": "b", "2": "c"})),
        "rte: .*id2label has 3 classes, a, b, c .*, expected those of rte in their order: 2, entailment",
    ),
    (
        MNLI.checkpoint,
        edit("config.json", lambda c: c.update(id2label={"0": "neutral", "1": "entailment", "2": "contradiction"})),
        "'neutral' is 0 in the file, 1 in the suite",
    ),
    (MNLI.checkpoint, edit("config.json", lambda c: c.pop("id2label")), "mnli: .*id2label has 2 classes"),
    (RTE.checkpoint, edit("config.json", lambda c: c.update(id2label=2)), "rte: .*id2label 2, expected an object"),
    (RTE.checkpoint, lambda f: f.update({"config.json": b"{"}), "gpt2_rte: config.json cannot be read as JSON"),
    (RTE.checkpoint, other_tokenizer, "gpt2_rte: tokenizer.json has other tokens than the base's"),
    (replicas.BASE, edit("tokenizer.json", lambda c: c["model"]["vocab"].popitem()), "gpt2: cannot be read as token"),
    (replicas.BASE, lambda f: f.update({"tokenizer.json": b"no JSON"}), "gpt2: cannot be read as tokenizer.json"),
    (replicas.BASE, lambda f: f.pop("tokenizer.json"), "gpt2: no tokenizer.json; it has README.md, config.json, model"),
    (replicas.BASE, edit("config.json", lambda c: c.update(n_positions=16)), "max_length 24, .*gpt2 has 16 positions"),
    (replicas.BASE, edit("config.json", lambda c: c.update(vocab_size=299)), "gpt2: tokenizer.json has 300 tokens, "),
    (replicas.DATA, lambda f: f.pop("mnli/validation_matched-00000-of-00001.parquet"), "split 'validation_matched'"),
    (replicas.DATA, retabulate("validation", labels=[-1] * TEST), "row 0: label -1 is none of the 2 classes of rte"),
    (replicas.DATA, retabulate("validation", sentence2=with_text(None)), "rte: .*row 2: sentence2 is null"),
    (
        replicas.DATA,
        retabulate("validation", sentence1=with_text(""), sentence2=with_text("")),
        "rte: validation-00000-of-00001.parquet: row 2: the text has no token",
    ),
    (
        replicas.DATA,
        retabulate("validation", sentence2=with_text(f"a {END}")),
        r"row 2: .*<\|endoftext\|>, which stand",
    ),
]
"""Faults in settings, tokenisers and texts."""


@pytest.mark.parametrize(("repo", "change", "message"), EARLY)
def test_a_fault_is_named_before_weights_are_read(local: Path, repo: str, change: Change, message: str):
    files = {path.relative_to(local / repo).as_posix(): path.read_bytes() for path in _files(local / repo)}
    change(files)
    shutil.rmtree(local / repo)
    for name, content in files.items():
        path = local / repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for weights in local.rglob("model.safetensors"):
        weights.write_bytes(b"no weights")
    with pytest.raises(BenchmarkError, match=message):
        prepare(define(local), local / "suite")
    assert not (local / "suite").exists()


@pytest.mark.parametrize(
    ("repo", "change", "message"),
    [
        (RTE.checkpoint, lambda w: w.pop("score.weight"), r"rte: .*score.weight has shape None, expected \[2, 32\]"),
        (
            RTE.checkpoint,
            lambda w: w.update({"score.weight": torch.ones(3, 32)}),
            r"has shape \[3, 32\], expected \[2,",
        ),
        (MNLI.checkpoint, lambda w: w.pop("transformer.h.1.mlp.c_fc.bias"), "mnli: .*: GPT-2: missing tensors"),
        (MNLI.checkpoint, lambda w: w.update({"transformer.adapter": torch.ones(1)}), "mnli: .*unknown tensors"),
        (
            replicas.BASE,
            lambda w: w.update({"wte.weight": torch.ones(301, 32)}),
            r"base: .*word_embedding has shape \[301, 32\], config.json asks for \[300, 32\]",
        ),
    ],
)
def test_wrong_weights_are_named_before_any_is_written(
    local: Path, repo: str, change: Callable[[dict[str, torch.Tensor]], object], message: str
):
    path = local / repo / "model.safetensors"
    files = {path.name: path.read_bytes()}
    edit_weights(change)(files)
    path.write_bytes(files[path.name])
    with pytest.raises(BenchmarkError, match=message):
        prepare(define(local), local / "suite")
    assert not (local / "suite").exists()


@pytest.mark.parametrize(
    ("columns", "labels", "message"),
    [
        ({"sentence1": ["a"] * 5, "sentence2": ["a"] * 5}, [0] * 5, "rte: validation has 5 rows, expected 6; publ"),
        ({"sentence1": ["a"] * 6}, [0] * 6, r"no column sentence2, the file has \['sentence1', 'label', 'idx'\]"),
        ({"sentence1": [1] * 6, "sentence2": ["a"] * 6}, [0] * 6, "sentence1 is int64, expected text"),
    ],
)
def test_footers_are_checked(local: Path, columns: dict, labels: list[int], message: str):
    path = local / replicas.DATA / "rte/validation-00000-of-00001.parquet"
    path.write_bytes(replicas.table(RTE, columns, labels))
    with pytest.raises(BenchmarkError, match=message):
        prepare(define(local), local / "suite")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tasks": ["rte"]}, "1 tasks, expected at least two"),
        ({"tasks": ["rte", "rte"]}, "rte: listed twice"),
        ({"tasks": ["rte", "stsb"]}, "tasks: 1 = 'stsb': unknown task 'stsb'; did you mean 'sst2'"),
        ({"tasks": ["rte", "mrpc"], "experts": {"cola": "./x"}}, "experts: cola is not among the tasks"),
        ({"tasks": ["rte", "mrpc"], "max_length": 0}, "max_length = 0: Input should be greater"),
        ({"tasks": ["rte", "mrpc"], "base": "gpt2"}, "base = 'gpt2': expected a path .* or a repository's id"),
    ],
)
def test_a_definition_is_checked_before_anything_is_fetched(
    content: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(suites, "FOLDER", tmp_path)
    shutil.copy(Path(glue.__file__), tmp_path)
    usual = {"family": "glue", "base": replicas.BASE, "data": replicas.DATA}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**usual, **content}))
    with pytest.raises(BenchmarkError, match=message):
        suites.load("mine")


def test_sizes_are_known_before_anything_is_fetched():
    _, definition = suites.load("glue7-gpt2")
    limits = glue.sizes(definition, RECIPE)
    assert limits["qqp"] == {"train": 8, "validation": 8, "test": 40430}
    assert [*limits] == [*TASKS]


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]
