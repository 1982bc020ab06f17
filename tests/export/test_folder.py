"""Both libraries load an exported model as it is and answer as the pipeline does; every kind says what it holds."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from pipeline.export import images as form
from pipeline.export.folder import export
from pipeline.merges import storage
from pipeline.models.examples import encode
from pipeline.models.suite import SuiteFolder
from pipeline.runtime import store
from stages import export as command
from tests.support import toy

pytestmark = pytest.mark.long

FILES = {
    *("model.safetensors", "config.json", "preprocessor_config.json", "open_clip_model.safetensors"),
    *("open_clip_config.json", "heads.safetensors", "classes.json", "README.md"),
}
SUITE = Path("data/suites/tiny")


def pipeline_logits(method: str, index: int, task: str, images: np.ndarray) -> Tensor:
    """The logits that the evaluation of a merge takes its answers from."""
    models = storage.load_models(SuiteFolder(SUITE), Path("data/merges/tiny") / method, index)
    model = next(model for model in models if task in model.tasks)
    return encode(model.encoder, model.weights, images, torch.device("cpu")) @ model.heads[task].T


def exported_logits(out: Path, task: str, images: np.ndarray) -> list[Tensor]:
    """The logits of an exported model, from images as files hold them: by transformers, by open_clip."""
    pictures = [Image.fromarray(image) for image in images]
    tower, loaded = CLIPVisionModelWithProjection.from_pretrained(out, output_loading_info=True)
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    pixels = CLIPImageProcessor.from_pretrained(out)(pictures, return_tensors="pt").pixel_values
    clip, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    assert isinstance(clip, open_clip.CLIP)
    head = load_file(out / "heads.safetensors")[task]
    with torch.no_grad():
        features = normalize(tower(pixel_values=pixels).image_embeds, dim=-1)
        others = clip.encode_image(torch.stack([preprocess(picture) for picture in pictures]), normalize=True)
    return [features @ head.T, others @ head.T]


def close(first: Tensor, second: Tensor) -> bool:
    """Whether logits agree to the rounding of float32."""
    return torch.allclose(first, second, rtol=0, atol=1e-5)


EXPORTED = {
    "data-free": ("average", None, None, 0),
    "first seed": ("samerging", None, None, 0),
    "second seed": ("samerging", 5, None, 1),
    "task of a merge": ("samerging", 3, "fish", 0),
    "model per task": ("individual", None, "dogs", 0),
    "masks": ("emr", None, "dogs", 0),
    "factors": ("rmm", None, "dogs", 0),
    "trained heads": ("symerge", 5, None, 1),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_both_libraries_answer_as_the_evaluation_does(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    method, seed, task, index = EXPORTED[case]
    assert export("tiny", method, tmp_path / "out", seed, task) == str(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert classes == {name: [*toy.TASKS[name]] for name in ([task] if task else toy.TASKS)}
    with caplog.at_level(logging.WARNING):
        for name in classes:
            images = SuiteFolder(SUITE).examples("test", name)
            expected = pipeline_logits(method, index, name, images)
            for logits in exported_logits(tmp_path / "out", name, images):
                assert close(logits, expected)
            if index:
                assert not close(expected, pipeline_logits(method, 0, name, images))
    assert not caplog.records


def test_surgery_exports_the_merged_tower_and_the_corrections(tmp_path: Path):
    export("tiny", "surgery-average", tmp_path, 5)
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "extras.safetensors"}
    extras, heads = (load_file(tmp_path / f"{name}.safetensors") for name in ("extras", "heads"))
    tower = CLIPVisionModelWithProjection.from_pretrained(tmp_path)
    processor = CLIPImageProcessor.from_pretrained(tmp_path)
    for task in toy.TASKS:
        images = SuiteFolder(SUITE).examples("test", task)
        pixels = processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        with torch.no_grad():
            z = normalize(tower(pixel_values=pixels).image_embeds, dim=-1)
        expected = pipeline_logits("surgery-average", 1, task, images)
        corrected = z - torch.relu(z @ extras[f"{task}/down"].T) @ extras[f"{task}/up"].T
        assert close(corrected @ heads[task].T, expected)
        assert not close(z @ heads[task].T, expected)
    card = (tmp_path / "README.md").read_text()
    assert "**Plain loading gives the merged encoder alone.**" in card
    assert "`z - relu(z @ down.T) @ up.T`" in card
    assert "model-index" not in card  # plain loading does not reach these accuracies


def test_surgery_of_a_task_exports_its_correction_alone(tmp_path: Path):
    export("tiny", "surgery-average", tmp_path, task="cats")
    assert {*load_file(tmp_path / "extras.safetensors")} == {"cats/down", "cats/up"}


@pytest.mark.parametrize(
    ("method", "task", "sentence"),
    [
        ("average", None, "One encoder serves all tasks: pick a task by its head."),
        ("individual", "dogs", "The method keeps a model per task. This is the one for dogs."),
        ("emr", "dogs", "This is the one for dogs. Its mask is applied, so that it is a plain encoder."),
        (
            "rmm",
            "dogs",
            "This is the one for dogs. It is rebuilt from what all tasks share, so that it is a",
        ),
        ("symerge", None, "The heads were trained together with it and replace those of the suite."),
    ],
)
def test_the_card_says_what_a_kind_holds(method: str, task: str | None, sentence: str, tmp_path: Path):
    export("tiny", method, tmp_path, None, task)
    assert sentence in (tmp_path / "README.md").read_text()


def test_processors_give_the_pixels_of_the_evaluation(tmp_path: Path):
    export("tiny", "average", tmp_path)
    images = SuiteFolder(SUITE).examples("test", "cats")
    expected = (torch.from_numpy(np.array(images)).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    pictures = [Image.fromarray(image) for image in images]
    pixels = CLIPImageProcessor.from_pretrained(tmp_path)(pictures, return_tensors="pt").pixel_values
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    torch.testing.assert_close(torch.stack([preprocess(picture) for picture in pictures]), expected, rtol=0, atol=1e-6)


def test_the_placeholder_refuses_captions(tmp_path: Path):
    export("tiny", "average", tmp_path)
    assert "**The text side in `open_clip_model.safetensors` is a placeholder**" in (tmp_path / "README.md").read_text()
    clip, _ = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a photo of a cat"])
    with pytest.raises(IndexError):
        clip.encode_text(tokens)


def test_the_card_counts_and_its_metadata_is_valid(tmp_path: Path):
    export("tiny", "samerging", tmp_path, 5)
    text = (tmp_path / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    rows = [line.split(",") for line in Path("data/scores/tiny/samerging.csv").read_text().splitlines()[1:]]
    counts = {task: (int(right), int(total)) for _, _, task, seed, _, right, total in rows if seed == "5"}
    assert len(counts) == len(toy.TASKS)
    values = {result.dataset_type: result.metric_value for result in card.data.eval_results or ()}
    for task, (right, total) in counts.items():
        assert values[f"tiny/{task}"] == round(100 * right / total, 2)
        interval = binomtest(right, total).proportion_ci(method="wilson")
        accuracy = f"{100 * right / total:.2f} | {100 * interval.low:.2f} to {100 * interval.high:.2f}"
        assert f"| {task} | {right} | {total} | {accuracy} |" in text
    for fact in (
        "SAMerging (arXiv 2512.21288",
        "for seed 5 of the calibration",
        "images of the train split, per task: cats 4, dogs 5, fish 6.",
        '| calibration_split | `"train"` |',
        "On the test split",
        "unknown (no Git checkout)",
        "unknown (no dvc.lock)",
    ):
        assert fact in text


def test_examples_that_are_clusters_have_no_interval(copied_run: Path, tmp_path: Path):
    store.write_array(
        copied_run / "data/suites/tiny/clusters/test/dogs.npy", np.zeros((toy.SIZES["test"], 2), np.int64)
    )
    export("tiny", "average", tmp_path / "model")
    text = (tmp_path / "model/README.md").read_text()
    assert "The images of dogs depend on each other, as crops of one photograph do" in text
    intervals = {line.split(" | ")[0][2:]: line[-4:-2] for line in text.splitlines() if line.count(" | ") == 4}
    assert {task for task, cell in intervals.items() if cell == " –"} == {"dogs"}


@pytest.mark.parametrize("guide", ["", "docs/use-the-merged-model.md"], ids=["card", "docs"])
def test_the_printed_code_classifies_an_image(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    export("tiny", "average", tmp_path / "my-model")
    images = SuiteFolder(SUITE).examples("test", "cats")
    expected = pipeline_logits("average", 0, "cats", images)[0].argmax()
    monkeypatch.chdir(tmp_path if guide else tmp_path / "my-model")
    Image.fromarray(images[0]).save("image.png")
    page = (toy.ROOT / guide if guide else Path("README.md")).read_text("utf-8")
    code = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    capsys.readouterr()
    exec(code.replace('"mnist"', '"cats"'), {})
    assert capsys.readouterr().out.split() == [toy.TASKS["cats"][expected]] * 2


def test_the_same_merge_gives_the_same_bytes(tmp_path: Path):
    contents = []
    for name in ("first", "second"):
        export("tiny", "average", tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(form, "open_clip_config", fail)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        export("tiny", "average", tmp_path / "out")
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_was_filled_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, out = form.open_clip_config, tmp_path / "out"

    def intrude(*arguments):
        out.mkdir()
        (out / "mine").write_text("mine")
        return plain(*arguments)

    monkeypatch.setattr(form, "open_clip_config", intrude)
    with pytest.raises(command.BenchmarkError, match="out: cannot be written"):
        export("tiny", "average", out)
    assert [*tmp_path.rglob("*")] == [out, out / "mine"]


def test_the_command_prints_one_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    command.main(["tiny", "samerging", "--seed", "5", str(tmp_path / "out")])
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: see its README.md\n"
    with pytest.raises(SystemExit, match=r"^export: .*out exists and is not an empty folder"):
        command.main(["tiny", "samerging", str(tmp_path / "out")])
    assert [*tmp_path.iterdir()] == [tmp_path / "out"]
