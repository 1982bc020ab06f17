"""params.yaml: what is refused, with which message, and that checking never alters a value."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.params import ParamsError, check, load, read
from tests.support import toy

CONTENT: dict[str, Any] = YAML(typ="safe").load(toy.ROOT / "params.yaml")
Key = tuple[str, ...]


def leaves(content: Any = CONTENT, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    """(path, value) of everything but non-empty mappings."""
    if not isinstance(content, dict) or not content:
        yield prefix, content
        return
    for name, value in content.items():
        yield from leaves(value, (*prefix, name))


def changed(key: str, value: Any) -> dict[str, Any]:
    """The content of params.yaml with one value set; "+" separates the parts of a key."""
    content = copy.deepcopy(CONTENT)
    *parents, last = key.split("+")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return content


def without(key: str) -> dict[str, Any]:
    """The content of params.yaml without one key."""
    content = changed(key, None)
    *parents, last = key.split("+")
    inner = content
    for parent in parents:
        inner = inner[parent]
    del inner[last]
    return content


WRONG = {
    "unknown key": (
        changed("sead", [0]),
        ["sead = [0]", "no such parameter", "did you mean 'seeds'?", "expected one of"],
    ),
    "misspelt top-level": (changed("rhoo", 0.1), ["rhoo = 0.1", "did you mean 'rho'?"]),
    "misspelt nested": (
        changed("merge+ties+kep", 0.2),
        ["merge.ties.kep = 0.2", "did you mean 'keep'?", "keep, scale"],
    ),
    "misspelt in schedule": (changed("schedule+mini-8+stps", 3), ["schedule.mini-8.stps = 3", "did you mean 'steps'?"]),
    "misspelt in methods": (changed("methods+merg", []), ["methods.merg = []", "did you mean 'merge'?"]),
    "misspelt study": (changed("study+efficency", {}), ["study.efficency", "did you mean 'efficiency'?", "ablation"]),
    "misspelt in study": (
        changed("study+efficiency+sample", [1]),
        ["study.efficiency.sample = [1]", "did you mean 'samples'?"],
    ),
    "misspelt in report": (changed("report+dbi", 1), ["report.dbi = 1", "did you mean 'dpi'?"]),
    "misspelt in recipe": (changed("recipe+nano-3+layer", 1), ["recipe.nano-3.layer = 1", "did you mean 'layers'?"]),
    "parameter of a method without any": (changed("merge+average+x", 1), ["merge.average.x = 1", "none at all"]),
    "text for a number": (changed("rho", "0.1"), ["rho = '0.1'", "should be a valid number"]),
    "nothing for a number": (changed("rho", None), ["rho = None", "should be a valid number"]),
    "bool for a float": (changed("rho", True), ["rho = True", "should be a valid number"]),
    "bool for an integer": (
        changed("samples_per_task", True),
        ["samples_per_task = True", "should be a valid integer"],
    ),
    "float for an integer": (changed("schedule+nano-3+steps", 5.0), ["schedule.nano-3.steps = 5.0", "valid integer"]),
    "integer for a bool": (changed("calibrate+adamerging+clamp", 1), ["calibrate.adamerging.clamp = 1", "boolean"]),
    "not finite": (changed("rho", float("inf")), ["rho = inf", "finite number"]),
    "rho below zero": (changed("rho", -0.1), ["rho = -0.1", "greater than or equal to 0"]),
    "no samples": (changed("samples_per_task", 0), ["samples_per_task = 0", "greater than or equal to 1"]),
    "no study samples": (changed("study+efficiency+samples", []), ["study.efficiency.samples = []", "at least 1 item"]),
    "the suite's own training": (
        changed("study+replicates+seeds", [0]),
        ["study.replicates.seeds.0 = 0", "equal to 1"],
    ),
    "degrees of conflict out of order": (
        changed("study+conflict+degrees", [0.5, 0.25]),
        ["study.conflict.degrees = [0.5, 0.25]", "expected different values in ascending order"],
    ),
    "a single source of conflict": (
        changed("study+conflict+sources", [0]),
        ["study.conflict.sources = [0]", "at least 2 items"],
    ),
    "no temperature": (changed("temperature", 0.0), ["temperature = 0.0", "greater than 0"]),
    "keep above one": (changed("merge+ties+keep", 1.5), ["merge.ties.keep = 1.5", "less than or equal to 1"]),
    "duplicate seeds": (changed("seeds", [0, 1, 0]), ["seeds = [0, 1, 0]", "values must differ"]),
    "negative seed": (changed("seeds", [-1]), ["seeds.0 = -1", "greater than or equal to 0"]),
    "no seeds": (changed("seeds", []), ["seeds = []", "at least 1 item"]),
    "no suites": (changed("suites", []), ["suites = []", "at least 1 item"]),
    "duplicate suites": (changed("suites", ["nano-3", "nano-3"]), ["suites", "values must differ"]),
    "unknown suite": (
        changed("suites", ["mini-9"]),
        ["suites: 'mini-9'", "did you mean 'mini-8'?", "mini-8, mini-8-lora, mini-lm, nano-3"],
    ),
    "unknown suite in schedule": (
        changed("schedule+nano3", CONTENT["schedule"]["nano-3"]),
        ["schedule.nano3", "did you mean 'nano-3'?"],
    ),
    "unknown suite in recipe": (changed("recipe+nano3", {}), ["recipe.nano3", "did you mean 'nano-3'?", "mini-8"]),
    "suite without schedule": (without("schedule+mini-8"), ["'mini-8'", "recipe.mini-8 and schedule.mini-8"]),
    "suite without recipe": (without("recipe+mini-8"), ["'mini-8'", "recipe.mini-8 and schedule.mini-8"]),
    "unknown method": (
        changed("methods+merge", ["tie"]),
        ["methods.merge: 'tie': no such method", "did you mean 'ties'?", "expected one of ace"],
    ),
    "running method of the other kind": (
        changed("methods+merge", ["distillation"]),
        ["methods.merge: 'distillation': no such method", "expected one of ace, arcee_fusion"],
    ),
    "scale of a merge that does not run": (
        changed("methods+rescale", ["tie"]),
        ["methods.rescale: 'tie' does not run", "did you mean 'ties'?", "samerging"],
    ),
    "surgery on a merge that does not run": (
        changed("every_method+merge", ["average", "ties"]),
        [
            "every_method.surgery: 'task_arithmetic' does not run",
            "every_method.rescale: 'task_arithmetic' does not run",
        ],
    ),
    "svc of a calibrated method": (
        changed("methods+svc", ["average", "regmean"]),
        ["methods.svc: 'regmean' does not run", "expected one of average"],
    ),
    "scale of an svc that does not run": (
        changed("methods+rescale", ["ties-svc"]),
        ["methods.rescale: 'ties-svc' does not run", "did you mean 'ties'?"],
    ),
    "alpha of a method that is none": (
        changed("svc+alpha", {"tsv": 1.0}),
        ["svc.alpha.tsv: no such method", "did you mean 'tsv_m'?"],
    ),
    "alpha of nothing": (changed("svc+alpha", {"ties": 0.0}), ["svc.alpha.ties = 0.0", "greater than 0"]),
    "float that overflows": (changed("schedule+nano-3+lr", 1e38), ["schedule.nano-3.lr = 1e+38", "1e-12 to 1e+06"]),
    "float that vanishes": (changed("temperature", 1e-300), ["temperature = 1e-300", "1e-12 to 1e+06"]),
    "float of a method": (changed("merge+wudi+lr", 1e300), ["merge.wudi.lr = 1e+300", "1e-12 to 1e+06"]),
    "float in a list": (changed("rescale+factors", [1.0, 1e7]), ["rescale.factors.1 = 10000000.0", "1e-12 to 1e+06"]),
    "float of a study": (changed("study+landscape+weights", [1e9]), ["study.landscape.weights.0", "1e-12 to 1e+06"]),
    "float of a recipe": (changed("recipe+nano-3+expert_lr", 1e9), ["recipe.nano-3.expert_lr", "1e-12 to 1e+06"]),
    "integer that overflows": (changed("seeds", [10**400]), ["seeds.0 = 1", "at most 1,000,000,000"]),
    "no factors": (changed("rescale+factors", []), ["rescale.factors = []", "at least 1 item"]),
    "factor of nothing": (changed("rescale+factors", [1.0, 0.0]), ["rescale.factors.1 = 0.0", "greater than 0"]),
    "duplicate factors": (changed("rescale+factors", [1.0, 1.0]), ["rescale.factors", "values must differ"]),
    **{
        f"duplicates in {key}": (changed(key, [value, value]), [key.replace("+", "."), "values must differ"])
        for key, value in {
            "merge+dare+seeds": 0,
            "merge+dare_ties+seeds": 0,
            "merge+opcm+seeds": 0,
            "calibrate+m_ties_random+seeds": 0,
            "study+efficiency+samples": 16,
            "study+protocol+samples": 16,
            "study+flatness+periods": 2,
            "study+tasks+sizes": 2,
            "study+tasks+seeds": 0,
            "study+sensitivity+rho": 0.07,
            "study+landscape+weights": 0.1,
            "study+landscape+tasks": [0, 1],
            "study+robustness+severities": 1,
            "study+replicates+seeds": 1,
            "study+conventions+methods": "iso_c",
            "study+theory+samples": 16,
            "study+theory+scales": 0.1,
        }.items()
    },
    "more gates than ranks": (
        changed("merge+smile+gate_rank", 64),
        ["merge.smile = {", "gate_rank 64: expected at most rank, 32"],
    ),
    "no rank": (changed("surgery+rank", 0), ["surgery.rank = 0", "greater than or equal to 1"]),
    "unknown section of a method": (changed("merge+tie", {}), ["merge.tie", "did you mean 'ties'?", "expected one of"]),
    "method of the other kind": (changed("merge+distillation", {}), ["merge.distillation", "no such entry"]),
    "samerging as a baseline": (changed("calibrate+samerging", {}), ["calibrate.samerging", "no such entry"]),
    "method without parameters": (without("merge+ties"), ["methods.merge: 'ties' has no parameters", "merge.ties"]),
    "method that is no mapping": (changed("merge+ties", 0.2), ["merge.ties = 0.2", "expected a mapping", "{}"]),
    "unknown sharpness": (changed("sharpness", "samm"), ["sharpness = 'samm'", "'sam', 'asam' or 'none'"]),
    "scored on the training images": (
        changed("evaluation_split", "train"),
        ["evaluation_split = 'train'", "'validation'"],
    ),
    "unknown split": (changed("calibration_split", "val"), ["calibration_split = 'val'", "'validation'"]),
    "batch above the pool": (
        changed("schedule+mini-8+batch_size", 100000),
        ["schedule.mini-8.batch_size = 100000", "calibration pool of mnist", "train split", "expected at most"],
    ),
    "missing key": (without("rho"), ["rho: missing; add it to params.yaml"]),
    "missing nested key": (without("schedule+nano-3+lr"), ["schedule.nano-3.lr: missing"]),
    "no studies": (changed("studies", []), ["studies = []", "at least 1 item"]),
    "duplicate studies": (changed("studies", ["theory", "theory"]), ["studies", "values must differ"]),
    "an unknown study": (
        changed("studies", ["ablations"]),
        [
            "studies: 'ablations': no such study",
            "did you mean 'ablation'?",
            "ablation, conflict, conventions, efficiency",
        ],
    ),
    "a study without an entry": (
        without("study+theory"),
        ["studies: 'theory' has no parameters", "entry study.theory"],
    ),
    "suites no list": (changed("suites", "mini-8"), ["suites = 'mini-8'", "valid list"]),
    "a list": ([], ["expected a mapping", "list"]),
    "nothing": (None, ["expected a mapping", "NoneType"]),
    "a number": (3, ["expected a mapping", "int"]),
}


@pytest.mark.parametrize(("content", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_parameters_are_named(content: Any, expected: list[str]):
    with pytest.raises(ParamsError) as caught:
        check(content)
    assert [part for part in expected if part not in str(caught.value)] == [], str(caught.value)


def test_an_unknown_method_is_not_offered_for_refinement():
    content = changed("methods+merge", ["tie"])
    content["methods"]["rescale"] = ["ties"]
    with pytest.raises(ParamsError) as caught:
        check(content)
    line = next(line for line in str(caught.value).splitlines() if "methods.rescale" in line)
    assert "'ties' does not run" in line
    assert "'tie'" not in line
    assert "tie," not in line


@pytest.mark.parametrize("value", [0.0, 1e-12, 1e6])
def test_the_limits_of_floats_are_accepted(value: float):
    assert check(changed("rho", value)).rho == value


def test_every_problem_gets_its_line():
    content = changed("rho", -1)
    content["sead"] = 1
    content["temperature"] = "warm"
    with pytest.raises(ParamsError) as caught:
        check(content)
    lines = str(caught.value).splitlines()
    assert lines[0] == "params.yaml is not valid:"
    assert sorted(line.split(" = ")[0].strip() for line in lines[1:]) == ["rho", "sead", "temperature"]


def test_a_batch_as_large_as_the_pool_is_accepted():
    pool = CONTENT["recipe"]["nano-3"]["train_images"]
    content = changed("suites", ["nano-3"])
    content["schedule"]["nano-3"]["batch_size"] = pool
    assert check(content).schedule["nano-3"].batch_size == pool
    content["schedule"]["nano-3"]["batch_size"] = pool + 1
    with pytest.raises(ParamsError, match=f"expected at most {pool}"):
        check(content)


def test_an_entry_may_leave_out_parameters_with_defaults():
    assert check(changed("merge+ties", {})).merge["ties"].keep == 0.2


@pytest.mark.parametrize(("text", "message"), [("rho: [", "not valid YAML"), ("a: 1\na: 2\n", "not valid YAML")])
def test_a_file_of_invalid_yaml_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path):
    path = tmp_path / "params.yaml"
    path.write_bytes(b"rho: \xff\xfe")
    with pytest.raises(ParamsError, match="not valid YAML"):
        read(path)


def test_a_missing_file_is_refused_with_the_place_to_run(tmp_path: Path):
    with pytest.raises(ParamsError, match="no such file; run from the root of the repository"):
        read(tmp_path / "params.yaml")


@pytest.mark.parametrize("key", ["merge.tis", "recipe.mini-9", "schedule.mini-9", "rhoo", "study.efficency"])
def test_a_requested_key_that_is_missing_is_named(at_root: Path, key: str):
    with pytest.raises(ParamsError, match=key):
        load([key])


@pytest.mark.parametrize("key", ["merge+ties+keep", "recipe+nano-3+width", "study+tasks+subsets"])
def test_a_stage_s_own_entries_are_checked_and_no_others(tmp_path: Path, key: str):
    path = tmp_path / "params.yaml"
    YAML(typ="safe").dump(changed(key, "wide"), path)
    with pytest.raises(ParamsError, match=rf"^params.yaml is not valid:\n  {key.replace('+', '.')} = 'wide'"):
        load([".".join(key.split("+")[:2])], path)
    assert load(["rho", "merge.average"], path)["rho"] == CONTENT["rho"]


def test_exponents_without_a_point_are_numbers(tmp_path: Path):
    path = tmp_path / "params.yaml"
    text = (toy.ROOT / "params.yaml").read_text()
    assert "\nrho: 0.07\n" in text
    path.write_text(text.replace("\nrho: 0.07\n", "\nrho: 1e-05\n"))
    assert load(["rho"], path)["rho"] == 1e-5


@pytest.mark.parametrize(("key", "value"), list(leaves()), ids=[".".join(key) for key, _ in leaves()])
def test_checking_never_alters_a_value(at_root: Path, key: Key, value: Any):
    loaded = load([".".join(key[:2])])[".".join(key[:2])]
    for part in key[2:]:
        loaded = loaded[part] if isinstance(loaded, dict) else getattr(loaded, part)
    if value == {}:
        loaded = loaded.model_dump()
    assert loaded == value
    assert type(loaded) is type(value)


def test_content_is_not_modified():
    content = copy.deepcopy(CONTENT)
    check(content)
    assert content == CONTENT


def test_a_stage_fails_with_the_message_and_writes_nothing(tmp_path: Path):
    toy.copy_code(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("\nrho: ", "\nrhoo: "))
    (tmp_path / "data/suites/nano-3").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-B", "-m", "stages.merge", "nano-3", "average"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "params.yaml is not valid:" in done.stderr
    assert "did you mean 'rho'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), st.integers(), max_size=2),
)


def paths(content: Any, prefix: Key = ()) -> Iterator[Key]:
    """The paths of all keys, sections included."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield (*prefix, name)
            yield from paths(value, (*prefix, name))


def delete(inner: dict, name: str, data: st.DataObject) -> None:
    """Remove the key."""
    del inner[name]


def replace(inner: dict, name: str, data: st.DataObject) -> None:
    """Give the key another value."""
    inner[name] = data.draw(VALUES, label="value")


def rename(inner: dict, name: str, data: st.DataObject) -> None:
    """Give the value another key."""
    other = data.draw(st.one_of(st.text(max_size=6), st.just(f"{name}s"), st.integers()), label="new key")
    inner[other] = inner.pop(name)


CHANGES: tuple[Callable[[dict, str, st.DataObject], None], ...] = (delete, replace, rename)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_content_is_accepted_or_refused_with_a_message(data: st.DataObject):
    content = copy.deepcopy(CONTENT)
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        path = data.draw(st.sampled_from([*paths(content)]), label="key")
        inner = content
        for part in path[:-1]:
            inner = inner[part]
        data.draw(st.sampled_from(CHANGES), label="change")(inner, path[-1], data)
    try:
        check(content)
    except ParamsError as error:
        assert str(error).startswith("params.yaml")
