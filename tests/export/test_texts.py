"""transformers loads an exported model of texts as it is, with its tokeniser, and answers as the pipeline does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from pipeline import suites
from pipeline.export import texts as form
from pipeline.export.folder import export
from pipeline.merges import storage
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from pipeline.suites import glue
from pipeline.suites._text_weights import convert_config, from_bert, from_gpt2
from tests.support import scored, toy, toy_texts

pytestmark = pytest.mark.long

FILES = {
    *("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"),
    *("heads.safetensors", "classes.json", "README.md"),
}
SUITE = Path("data/suites/tiny")
READ = {"bert": from_bert, "gpt2": from_gpt2}


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def kind(request: pytest.FixtureRequest) -> str:
    """The architecture of the suite."""
    return request.param


@pytest.fixture(scope="module")
def scored_run(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Path:
    """A folder with scored merges of a tiny suite of texts; read only."""
    root = tmp_path_factory.mktemp("scored") / "run"
    suite = root.with_name("suite")
    toy_texts.write_suite(suite, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMERGING_WORKERS", "1")
        scored.fill(root, suite)
    return root


def pipeline_logits(method: str, index: int, task: str) -> Tensor:
    """The logits of test texts that the evaluation of a merge takes its answers from."""
    models = storage.load_models(SuiteFolder(SUITE), Path("data/merges/tiny") / method, index)
    model = next(model for model in models if task in model.tasks)
    texts = SuiteFolder(SUITE).examples("test", task)
    return encode(model.encoder, model.weights, texts, torch.device("cpu")) @ model.heads[task].T


def exported_features(out: Path, kind: str, task: str) -> Tensor:
    """The features of test texts by transformers, text by text, without padding."""
    further = {"add_pooling_layer": False} if kind == "bert" else {}
    model, loaded = AutoModel.from_pretrained(out, output_loading_info=True, **further)
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    rows = [torch.from_numpy(row[row >= 0]).long()[None] for row in SuiteFolder(SUITE).examples("test", task)]
    with torch.no_grad():
        hidden = [model.eval()(input_ids=row).last_hidden_state[0] for row in rows]
    if kind == "bert":
        return normalize(torch.stack([tokens.mean(0) for tokens in hidden]), dim=-1)
    return torch.stack([tokens[-1] for tokens in hidden])


def check_logits(logits: Tensor, expected: Tensor) -> None:
    """Check logits to 1e-5 of the largest: GPT-2's features have any length."""
    size = expected.abs().max()
    torch.testing.assert_close(logits / size, expected / size, rtol=0, atol=1e-5)


def test_names_and_settings_for_transformers_are_the_inverse_of_reading_them(kind: str):
    model = toy_texts.MODELS[kind]
    weights = toy_texts.draw_weights(model)
    written = form.text_weights(model, weights)
    assert toy.same(READ[kind](written), weights)
    assert convert_config(form.text_config(model)) == model


EXPORTED = {
    "data-free": ("average", None, None, 0),
    "second seed": ("samerging", 5, None, 1),
    "model per task": ("individual", None, "dogs", 0),
    "masks": ("emr", None, "dogs", 0),
    "trained heads": ("symerge", 5, None, 1),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_transformers_answers_as_the_evaluation_does(case: str, kind: str, tmp_path: Path):
    method, seed, task, index = EXPORTED[case]
    export("tiny", method, tmp_path / "out", seed, task)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    heads = load_file(tmp_path / "out/heads.safetensors")
    assert {*heads} == ({task} if task else {*toy.TASKS})
    for name, head in heads.items():
        logits = exported_features(tmp_path / "out", kind, name) @ head.T
        check_logits(logits, pipeline_logits(method, index, name))


def test_surgery_exports_the_merged_encoder_and_the_corrections(kind: str, tmp_path: Path):
    export("tiny", "surgery-average", tmp_path, 5)
    extras, heads = (load_file(tmp_path / f"{name}.safetensors") for name in ("extras", "heads"))
    for task, head in heads.items():
        z = exported_features(tmp_path, kind, task)
        corrected = z - torch.relu(z @ extras[f"{task}/down"].T) @ extras[f"{task}/up"].T
        check_logits(corrected @ head.T, pipeline_logits("surgery-average", 1, task))


def test_the_tokeniser_gives_the_ids_of_the_suite(kind: str, tmp_path: Path):
    export("tiny", "average", tmp_path)
    loaded, own = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.from_file(str(SUITE / "tokenizer.json"))
    text = "w3 w1 w4 w1 w5"
    given = loaded(text)
    assert given["input_ids"] == own.encode(text).ids
    assert {*given} == {"input_ids", "attention_mask"}  # GPT-2 would add an embedding of token types
    assert loaded.model_max_length == toy_texts.LENGTH


SPECIAL = {"bert": ("[PAD]", 48, "right"), "gpt2": ("<|endoftext|>", 9, "right"), "none": (None, 9, "left")}


@pytest.mark.parametrize("case", SPECIAL)
def test_the_tokeniser_is_told_how_to_pad_and_where_to_cut(case: str):
    token, longest, cut = SPECIAL[case]
    vocabulary = {"a": 0, **({token: 1} if token else {})}
    content = {"truncation": {"max_length": 48} if longest == 48 else None, "model": {"vocab": vocabulary}}
    settings = form.tokenizer_config(json.dumps(content), 9, cut)
    assert settings.get("pad_token") == token
    assert settings["model_max_length"] == longest
    assert settings["truncation_side"] == cut


def test_the_printed_code_classifies_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    export("tiny", "average", tmp_path)
    texts = SuiteFolder(SUITE).examples("test", "cats")
    expected = pipeline_logits("average", 0, "cats")[0].argmax()
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(" ".join(f"w{token}" for token in texts[0] if token >= 0))
    (code,) = re.findall(r"^```python\n(.*?)^```$", Path("README.md").read_text(), re.MULTILINE | re.DOTALL)
    Path("tokenizer.json").write_text(words_of(Path("tokenizer.json").read_text()))
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.strip() == [*toy.TASKS["cats"]][expected]


def words_of(tokenizer: str) -> str:
    """The toy tokeniser, which takes a text for one word, with a split at spaces."""
    return json.dumps(json.loads(tokenizer) | {"pre_tokenizer": {"type": "WhitespaceSplit"}})


def test_the_card_speaks_of_texts(kind: str, tmp_path: Path):
    export("tiny", "samerging", tmp_path, 5)
    text = (tmp_path / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.tags[0] == kind
    assert card.data.eval_results[0].task_type == "text-classification"
    assert "image" not in text
    for fact in (
        f"transformers.{form.CLASSES[kind]}",
        "unlabelled texts of the train split, per task: cats 4, dogs 5, fish 6.",
        f"cut after {toy_texts.LENGTH} tokens",
        "| task | right | texts |",
        "One encoder serves all tasks: pick a task by its head.",
    ):
        assert fact in text


def test_a_model_that_predicts_tokens_keeps_the_end_of_a_text(copied_run: Path, kind: str):
    suite = copied_run / "data/suites/tiny"
    store.write_array(suite / "general.npy", toy_texts.draw_texts(3, toy_texts.LENGTH, seed=0).numpy())
    export("tiny", "average", Path("out"))
    words = [f"w{token}" for token in range(1, 20)]
    Path("out/tokenizer.json").write_text(words_of(Path("out/tokenizer.json").read_text()))
    given = AutoTokenizer.from_pretrained("out")(" ".join(words), truncation=True)["input_ids"]
    assert given == [*range(20 - toy_texts.LENGTH, 20)]
    assert "the tokeniser keeps the last" in Path("out/README.md").read_text()


def test_fetched_packages_are_named_with_their_licences(copied_run: Path):
    path = copied_run / "data/suites/tiny/suite.json"
    fetched = [{"id": "encoder 1.0", "license": "Apache-2.0"}, {"id": "corpus 2.0", "license": ""}]
    provenance = {"source": "trained here", "fetched": fetched}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"provenance": provenance}))
    export("tiny", "average", Path("out"))
    sentence = "Fetched: encoder 1.0, licence Apache-2.0; corpus 2.0, licence not stated."
    assert f"Source of base and experts: trained here. {sentence}\n" in Path("out/README.md").read_text()


def test_public_checkpoints_of_glue_are_cited(copied_run: Path, monkeypatch: pytest.MonkeyPatch):
    definition = glue.Definition(base="someone/gpt2", data="./glue", tasks=["cola", "rte"], experts={"rte": "./rte"})
    monkeypatch.setattr(suites, "names", lambda: ("texts",))
    monkeypatch.setattr(suites, "load", lambda _: (glue, definition))
    path = copied_run / "data/suites/tiny/suite.json"
    places = ("someone/gpt2", "tanganke/gpt2_cola")
    entries: list[dict[str, Any]] = [
        {"repo": repo, "id": repo, "commit": "f" * 40, "license": "mit"} for repo in places
    ]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"provenance": {"fetched": entries}}))
    export("tiny", "average", Path("out"))
    text = Path("out/README.md").read_text()
    for role, repo in zip(("base", "cola"), places, strict=True):
        assert f"| {role} | [{repo}](https://huggingface.co/{repo}) | {'f' * 40} | mit |" in text
    assert "| rte | a local file, `rte` |" in text
