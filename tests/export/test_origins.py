"""The text side is the base's where its file is on this machine, and the card names what a merge was made of."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import ModelCard, hf_hub_download
from safetensors.torch import save
from transformers import CLIPConfig, CLIPModel

from pipeline import suites
from pipeline.export.folder import export
from pipeline.suites import clip
from tests.support import hub_server, toy

pytestmark = pytest.mark.long
hub = hub_server.hub

BASE, EXPERT = "someone/clip", "someone/cats"


@pytest.fixture(scope="module")
def pretrained() -> CLIPModel:
    """A CLIP with the text tower of the tiny suite."""
    text, vision = toy.CLIP["text_cfg"], toy.CLIP["vision_cfg"]
    shared = {"num_hidden_layers": 1, "projection_dim": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPModel(
            CLIPConfig(
                projection_dim=16,
                text_config={
                    **shared,
                    **{"hidden_size": 16, "intermediate_size": 64, "num_attention_heads": 1, "eos_token_id": 15},
                    **{"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]},
                },
                vision_config={
                    **shared,
                    **{"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2},
                    **{"image_size": vision["image_size"], "patch_size": vision["patch_size"]},
                },
            )
        ).eval()


def define(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    """Make the tiny suite one of published and local checkpoints."""
    places = {"cats": EXPERT, "dogs": "./dogs", "fish": "./fish"}
    tasks = [
        clip.CustomTask(name=name, expert=places[name], dataset="./data", test_size=7, classes=[*classes])
        for name, classes in toy.TASKS.items()
    ]
    definition = clip.Definition(base=base, tasks=tasks)
    monkeypatch.setattr(suites, "names", lambda: ("tiny",))
    monkeypatch.setattr(suites, "load", lambda _: (clip, definition))


def fetched(run: Path, commits: dict[str, str]) -> None:
    """Write into suite.json what `prepare` fetched."""
    path = run / "data/suites/tiny/suite.json"
    suite = json.loads(path.read_text())
    suite["provenance"] = {
        "fetched": [{"repo": repo, "id": repo, "commit": commits[repo], "license": "mit"} for repo in commits]
    }
    path.write_text(json.dumps(suite))


def check_text(out: Path, pretrained: CLIPModel) -> None:
    """The exported model encodes captions as the base does."""
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{out}")
    tokens = torch.tensor([[14, 3, 15, 0], [14, 15, 0, 0]])
    with torch.no_grad():
        expected = pretrained.get_text_features(input_ids=tokens).pooler_output
        torch.testing.assert_close(model.encode_text(tokens), expected, rtol=0, atol=1e-5)
    assert torch.equal(model.logit_scale, pretrained.logit_scale)
    assert "is that of the base, unchanged" in (out / "README.md").read_text()


def test_the_text_tower_of_a_local_base_is_exported(
    tmp_path: Path, pretrained: CLIPModel, monkeypatch: pytest.MonkeyPatch
):
    base = tmp_path / "my-clip"
    base.mkdir()
    (base / "model.safetensors").write_bytes(save(pretrained.state_dict()))
    define(monkeypatch, str(base))
    export("tiny", "average", tmp_path / "out")
    check_text(tmp_path / "out", pretrained)
    text = (tmp_path / "out/README.md").read_text()
    assert "| base | a local file, `my-clip` |" in text
    assert str(tmp_path) not in text  # a card may be published


def test_the_text_tower_of_a_fetched_base_is_exported_and_all_are_cited(
    copied_run: Path, pretrained: CLIPModel, hub: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
):
    commits = {BASE: hub.push("model", BASE, {"model.safetensors": save(pretrained.state_dict())}), EXPERT: "f" * 40}
    hf_hub_download(BASE, "model.safetensors", revision=commits[BASE])
    define(monkeypatch, BASE)
    fetched(copied_run, commits)
    requests = len(hub.requests)
    export("tiny", "average", Path("out"))
    check_text(Path("out"), pretrained)
    assert len(hub.requests) == requests
    text = Path("out/README.md").read_text()
    assert f"| base | [{BASE}](https://huggingface.co/{BASE}) | {commits[BASE]} | mit |" in text
    assert f"| cats | [{EXPERT}](https://huggingface.co/{EXPERT}) | {'f' * 40} | mit |" in text
    assert "| dogs | a local file, `dogs` |" in text
    data = ModelCard(text).data.to_dict()
    assert data["base_model"] == [BASE, EXPERT]
    assert data["base_model_relation"] == "merge"
    assert "license" not in data


def test_without_the_file_of_the_base_the_text_side_is_a_placeholder(
    copied_run: Path, hub: hub_server.Hub, monkeypatch: pytest.MonkeyPatch
):
    define(monkeypatch, BASE)
    fetched(copied_run, {BASE: "0" * 40})
    export("tiny", "average", Path("out"))
    assert "and\nthe base's was not on the machine that exported this." in Path("out/README.md").read_text()
    assert not hub.requests
