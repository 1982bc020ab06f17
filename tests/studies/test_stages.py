"""The stages of the studies run on their declared inputs and write the same bytes twice."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.runtime import store
from pipeline.steps.teach import compute_teacher_logits
from tests.support import toy

SMALLER = {
    "ablation": {},
    "conventions": {"methods": ["iso_c", "esm"]},
    "efficiency": {"samples": [2, 8]},
    "flatness": {"periods": [2]},
    "protocol": {"samples": [2]},
}


@pytest.mark.parametrize("name", SMALLER)
def test_a_study_writes_its_rows_with_reproducible_bytes(name: str, workspace: Path, pristine_suite: Path, monkeypatch):
    monkeypatch.setenv("SAMERGING_WORKERS", "1")
    yaml = YAML()
    params = yaml.load(workspace / "params.yaml")
    params["study"][name].update(SMALLER[name])
    params["schedule"]["nano-3"].update(steps=2, batch_size=2)
    params["seeds"] = [4]
    yaml.dump(params, workspace / "params.yaml")
    shutil.copytree(pristine_suite, "data/suites/nano-3")
    for task in toy.TASKS:
        logits = compute_teacher_logits(pristine_suite, task, "train")
        store.write_array(Path(f"data/teachers/nano-3/{task}.npy"), logits.numpy())
    stage = import_module(f"stages.studies.{name}")
    contents = []
    for _ in range(2):
        stage.STAGE.run(stage.run, {"suite": "nano-3"})
        contents.append(Path(f"data/studies/nano-3/{name}/rows.csv").read_bytes())
        shutil.rmtree("data/.resumable")
    header, *lines = contents[0].decode().splitlines()
    assert header.startswith("setting,k,suite,method,task,seed,samples,correct,total")
    assert lines and len(lines) % len(toy.TASKS) == 0
    assert contents[0] == contents[1]
    assert [*Path("data/.partial").iterdir()] == []
