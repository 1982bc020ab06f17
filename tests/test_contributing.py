"""The examples in the guides for contributors work as printed, and the hooks have the locked version of their tool."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
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
from tests.support.toy_texts import PROBLEMS

GUIDES = ("CONTRIBUTING.md", "docs/add-a-method.md", "docs/add-a-suite.md")
METHOD = "breadcrumbs"
EXAMPLES = {METHOD: "add-a-method.md", "scaled_average": "../README.md"}
"""The methods that guides show, and where."""


def blocks(guide: str, language: str) -> list[str]:
    """The code blocks of a guide."""
    text = (toy.ROOT / "docs" / guide).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def module(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make the code a module that can be imported by its name."""
    made = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(code, f"{name}, in docs", "exec"), made.__dict__)
    return made


def parsed(text: str) -> Any:
    """YAML as Python objects."""
    return YAML(typ="safe").load(text)


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the method that a guide shows."""
    (code,) = blocks(EXAMPLES[name], "python")
    return module(f"{methods.__name__}.{name}", code, monkeypatch)


@pytest.fixture
def method(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The method of docs/add-a-method.md."""
    return example(METHOD, monkeypatch)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    "keeps",
    [
        contract.test_method_file_has_what_tables_and_readers_need,
        contract.test_parameters_are_frozen_and_have_defaults,
        *(partial(contract.test_data_free_method_keeps_its_contract, kind=kind) for kind in PROBLEMS),
        partial(contract.test_data_free_method_of_experts_equal_to_the_base_is_the_base, kind="images"),
        contract.test_order_of_tasks_does_not_matter,
        contract.test_a_merge_grows_with_its_task_vectors,
    ],
)
def test_an_example_keeps_the_contract(name: str, keeps: Callable[[str], None], monkeypatch: pytest.MonkeyPatch):
    example(name, monkeypatch)
    keeps(name)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_passes_lint(workspace: Path, name: str):
    shutil.copy(toy.ROOT / "pyproject.toml", workspace)
    path = workspace / f"pipeline/methods/{name}.py"
    path.write_text(*blocks(EXAMPLES[name], "python"))
    types = ("pyrefly", "check", "--python-interpreter-path", sys.executable)
    for command in (("ruff", "check"), ("ruff", "format", "--check"), types):
        done = subprocess.run([sys.executable, "-m", *command, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_method_of_the_guide_is_its_formula(method: ModuleType):
    vectors = toy.task_vectors()
    merged = method.merge(vectors, method.Params(outliers=0.1, keep=0.5, scale=0.7))
    for name, stacked in vectors.items():
        size, expected = stacked[0].numel(), torch.zeros_like(stacked[0]).flatten()
        for vector in stacked.flatten(1):
            order = sorted(range(size), key=lambda entry, of=vector: -abs(of[entry]))
            top = int(0.1 * size)
            indices = order[top : top + math.ceil(0.5 * size)]
            expected[indices] += 0.7 * vector[indices]
        torch.testing.assert_close(merged[name].flatten(), expected, rtol=0, atol=1e-14)


def test_the_parameters_of_the_guide_are_those_of_its_method(method: ModuleType):
    examples = [parsed(block) for block in blocks("add-a-method.md", "yaml")]
    assert {METHOD: method.Params().model_dump()} in examples
    fields = ", ".join(f'".{field}"' for field in method.Params.model_fields)
    assert f'"{METHOD}": ({fields}),' in (toy.ROOT / "docs/add-a-method.md").read_text("utf-8")


def test_the_suite_of_the_guide_is_a_valid_definition():
    content, entries = map(parsed, blocks("add-a-suite.md", "yaml"))
    assert content.pop("family") == "clip"
    assert [task.name for task, _, _ in clip.Definition.model_validate(content).describe()] == ["dtd", "flowers-5"]
    (suite,) = entries["suites"]
    known = parsed((toy.ROOT / "params.yaml").read_text("utf-8"))
    for section in ("schedule", "recipe"):
        assert entries[section] == {suite: known[section]["ta8-vit-b-32"]}


def test_the_family_of_the_guide_prepares_a_suite(
    pristine_suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (code,) = blocks("add-a-suite.md", "python")
    family = module("pipeline.suites.copied", code, monkeypatch)
    definition, recipe = family.Definition(source=str(pristine_suite)), family.Recipe()
    family.prepare("mine", definition, recipe, tmp_path / "checkpoints", tmp_path / "mine")
    prepared = SuiteFolder(tmp_path / "mine")
    assert prepared.suite.name == "mine"
    counts = {task: {split: len(prepared.labels(split, task)) for split in SPLITS} for task in toy.TASKS}
    assert family.sizes(definition, recipe) == counts


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_that_a_guide_names_exists(guide: str):
    path = toy.ROOT / guide
    text = path.read_text("utf-8")
    links = [path.parent / link for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", text)]
    code = re.findall(r"`((?:pipeline|stages|tests|docs|benchmarks)/[\w./-]+\w)`", text)
    examples = {"pipeline/methods/breadcrumbs.py", "pipeline/suites/flowers.yaml", "pipeline/suites/copied.py"}
    files = [*links, *(toy.ROOT / name for name in code if name not in examples)]
    assert [file for file in files if not file.exists()] == []


def test_hooks_lint_with_the_locked_ruff():
    lock = (toy.ROOT / "requirements.lock").read_text("utf-8")
    hooks = parsed((toy.ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (locked,) = re.findall(r"^ruff==(\S+)", lock, re.MULTILINE)
    assert [repo["rev"] for repo in hooks["repos"] if repo["repo"].endswith("/ruff-pre-commit")] == [f"v{locked}"]
