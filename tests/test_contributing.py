"""What the guides for contributors show works as it stands there, and their tools have the versions of the lock."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pipeline import methods
from pipeline.models.suite import SPLITS, SuiteFolder
from pipeline.suites import clip
from tests.methods import test_contract as contract
from tests.support import toy

GUIDES = ("CONTRIBUTING.md", "docs/add-a-method.md", "docs/add-a-suite.md")
METHOD = "breadcrumbs"


def blocks(guide: str, language: str) -> list[str]:
    """The code blocks of a guide."""
    text = (toy.ROOT / "docs" / guide).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def module(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The code as a module that is found by its name."""
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, f"{name}, in docs", "exec"), made.__dict__)
    return made


def parsed(text: str) -> Any:
    """YAML as Python objects."""
    return YAML(typ="safe").load(text)


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The method of docs/add-a-method.md."""
    (code,) = blocks("add-a-method.md", "python")
    return module(f"{methods.__name__}.{METHOD}", code, monkeypatch)


@pytest.mark.parametrize(
    "keeps",
    [
        contract.test_method_file_has_what_tables_and_readers_need,
        contract.test_parameters_are_frozen_and_have_defaults,
        contract.test_data_free_method_keeps_its_contract,
        contract.test_data_free_method_of_experts_equal_to_the_base_is_the_base,
        contract.test_order_of_tasks_does_not_matter,
        contract.test_a_merge_grows_with_its_task_vectors,
    ],
)
def test_the_method_of_the_guide_keeps_the_contract(method: ModuleType, keeps: Callable[[str], None]):
    keeps(METHOD)


def test_the_method_of_the_guide_is_its_formula(method: ModuleType):
    vectors = toy.task_vectors()
    found = method.merge(vectors, method.Params(outliers=0.1, keep=0.5, scale=0.7))
    for name, stacked in vectors.items():
        size, expected = stacked[0].numel(), torch.zeros_like(stacked[0]).flatten()
        for vector in stacked.flatten(1):
            order = sorted(range(size), key=lambda entry, of=vector: -abs(of[entry]))
            top = int(0.1 * size)
            kept = order[top : top + math.ceil(0.5 * size)]
            expected[kept] += 0.7 * vector[kept]
        torch.testing.assert_close(found[name].flatten(), expected, rtol=0, atol=1e-14)


def test_the_parameters_of_the_guide_are_those_of_its_method(method: ModuleType):
    shown = [parsed(block) for block in blocks("add-a-method.md", "yaml")]
    assert {METHOD: method.Params().model_dump()} in shown
    fields = ", ".join(f'".{field}"' for field in method.Params.model_fields)
    assert f'"{METHOD}": ({fields}),' in (toy.ROOT / "docs/add-a-method.md").read_text("utf-8")


def test_the_suite_of_the_guide_is_a_definition():
    content, entries = map(parsed, blocks("add-a-suite.md", "yaml"))
    assert content.pop("family") == "clip"
    assert [about.name for about, _, _ in clip.Definition.model_validate(content).describe()] == ["dtd", "flowers-5"]
    (suite,) = entries["suites"]
    known = parsed((toy.ROOT / "params.yaml").read_text("utf-8"))
    for section in ("schedule", "recipe"):
        assert entries[section] == {suite: known[section]["ta8-vit-b-32"]}


def test_the_family_of_the_guide_prepares(pristine_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (code,) = blocks("add-a-suite.md", "python")
    family = module("pipeline.suites.copied", code, monkeypatch)
    definition, recipe = family.Definition(source=str(pristine_suite)), family.Recipe()
    family.prepare("mine", definition, recipe, tmp_path / "checkpoints", tmp_path / "mine")
    found = SuiteFolder(tmp_path / "mine")
    assert found.suite.name == "mine"
    counts = {task: {split: len(found.labels(split, task)) for split in SPLITS} for task in toy.TASKS}
    assert family.sizes(definition, recipe) == counts


@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_names_is_there(guide: str):
    path = toy.ROOT / guide
    text = path.read_text("utf-8")
    links = [path.parent / link for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text)]
    code = re.findall(r"`((?:pipeline|stages|tests|docs|benchmarks)/[\w./-]+\w)`", text)
    shown = {"pipeline/methods/breadcrumbs.py", "pipeline/suites/flowers.yaml", "pipeline/suites/copied.py"}
    files = [*links, *(toy.ROOT / name for name in code if name not in shown)]
    assert [file for file in files if not file.exists()] == []


def test_hooks_lint_with_the_ruff_of_the_lock():
    lock = (toy.ROOT / "requirements.lock").read_text("utf-8")
    hooks = parsed((toy.ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (locked,) = re.findall(r"^ruff==(\S+)", lock, re.MULTILINE)
    assert [repo["rev"] for repo in hooks["repos"] if repo["repo"].endswith("/ruff-pre-commit")] == [f"v{locked}"]
