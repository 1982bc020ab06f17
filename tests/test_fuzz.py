"""Any content of a file is accepted or refused in one clear message, never with a traceback.

A few hundred contents here, always the same ones; `make faults` tries ten thousand of each kind.
"""

import copy
import io
import json
import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params, suites
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.models.suite import Suite, SuiteFolder
from pipeline.params import ParamsError
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics import accuracy as scores
from tests.support import toy
from tests.test_params import CONTENT, paths

pytestmark = pytest.mark.long

TEXT = (toy.ROOT / "params.yaml").read_text()
LIMIT = 20_000
"""The most characters that a message may have."""
HARD = (
    "&a [*a]", "&a {k: *a}", "*nothing", "!!python/object/apply:os.system [x]", "!!python/name:os.system", "!foo x",
    "!!binary abc", "[!!binary YWJj]", "2020-01-01", "2020-99-99", "2001-12-14t21:59:43.10-25:00", "9" * 5000,
    "-" + "9" * 400, "0x" + "f" * 5000, "0o9", "1_000", "190:20:30", "1e999", ".nan", "-.inf", "\t- x",
    "{? [a, b] : c}", "{? {a: b} : c}", "{<<: 3}", "{<<: *x}", "\ufeff1", "\x00",
    "\x07", '"a\x85b"', '"\\ud800"', '"\\U00110000"', "'",
    "!!set {a}", "!!omap [a: 1]", "!!omap {a: 1}", "!!pairs [a: 1]", "!!timestamp x", "!!int x", "!!float x",
    "!!float [1]", "!!bool x", "!!null x", "!!str [1]", "!!seq x", "!!map x", "-", "=", "%", "@x", "`x`",
    "{a: 1, a: 2}", "{~: 1}", "{1: 2}", "{true: 1}", "{1.5: 1}", "{2020-01-01: 1}", "[{a: 1}]", "[[1], [1]]",
    "[[1], {}]", "😀", "~",
    "---", "...", "--- x", "%YAML 9.9", "# x", "|", ">-", "? x", "[" * 200 + "]" * 200, "{a: " * 50 + "1" + "}" * 50,
    "&a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b]\n"
    "d: &d [*c, *c, *c, *c, *c, *c, *c, *c]\ne: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nrho: &f [*e, *e, *e, *e, *e, *e]",
)  # fmt: skip
"""Values that have crashed some reader of YAML."""
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(), st.text(max_size=8), st.dates(), st.binary()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=6
)
fuzzed = settings(derandomize=True, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def known() -> Any:
    """The definitions of the suites, read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "load", cache(suites.load))
        yield


def check_refusal(reader: Callable[[], object], names: str = "") -> None:
    """Run the reader; if it refuses, its message names the file and has a sensible length."""
    try:
        reader()
    except BenchmarkError as error:
        message = str(error)
        assert names in message
        assert 20 < len(message) < LIMIT


def change_content(content: Any, data: st.DataObject, values: st.SearchStrategy[Any], most: int = 4) -> Any:
    """Copy the content with some keys removed, renamed or given other values."""
    content = copy.deepcopy(content)
    for _ in range(data.draw(st.integers(1, most))):
        inner, (*parents, last) = content, data.draw(st.sampled_from([*paths(content)]))
        for part in parents:
            inner = inner[part]
        kind = data.draw(st.sampled_from(("value", "value", "delete", "name")))
        value = inner.pop(last)
        if kind == "value":
            inner[last] = data.draw(values)
        elif kind == "name":
            inner[data.draw(st.one_of(SCALARS.filter(lambda key: key == key), st.just(f"{last}s")))] = value  # noqa: PLR0124
        if not content:
            break
    return content


@fuzzed
@given(st.data())
def test_any_parameters(data: st.DataObject):
    content = change_content(CONTENT, data, VALUES)
    try:
        params.check(content)
    except ParamsError as error:
        assert str(error).startswith("params.yaml")
        assert len(str(error)) < LIMIT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose files every example overwrites."""
    return tmp_path_factory.mktemp("fuzz")


LINES = TEXT.splitlines(keepends=True)
EDITS = st.tuples(
    st.integers(0, len(LINES) - 1),
    st.sampled_from(("value", "line", "before", "cut", "indent", "twice")),
    st.sampled_from(HARD) | st.text(max_size=12),
)


def edit_lines(edits: list[tuple[int, str, str]]) -> str:
    """The text of params.yaml with some lines changed."""
    lines = list(LINES)
    for number, kind, text in edits:
        line = lines[number]
        lines[number] = {
            "value": f"{line.split(':')[0]}: {text}\n",
            "line": f"{text}\n",
            "before": f"{text}{line}",
            "cut": line[: len(line) // 2],
            "indent": f" {line}",
            "twice": line * 2,
        }[kind]
    return "".join(lines)


@pytest.mark.filterwarnings("ignore::ruamel.yaml.error.ReusedAnchorWarning")  # valid, if odd, YAML
@fuzzed
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_any_text_of_the_parameters(folder: Path, edits: list[tuple[int, str, str]]):
    path = folder / "params.yaml"
    path.write_bytes(edit_lines(edits).encode("utf-8", "surrogatepass"))
    check_refusal(lambda: params.check(params.read(path)), "params.yaml")


@pytest.mark.parametrize("text", HARD, ids=lambda text: repr(text[:20]))
@pytest.mark.parametrize("key", ["rho", "seeds", "sharpness"])
def test_every_hard_value(folder: Path, key: str, text: str):
    path = folder / "params.yaml"
    before, _, after = TEXT.partition(f"\n{key}:")
    path.write_bytes(f"{before}\n{key}: {text}\n{after.partition(chr(10))[2]}".encode("utf-8", "surrogatepass"))
    check_refusal(lambda: params.check(params.read(path)), "params.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_give_the_same_parameters_or_a_message(folder: Path, encoding: str):
    path = folder / "params.yaml"
    path.write_bytes(TEXT.replace("# ", "# ü ").encode(encoding, "replace"))

    def load() -> None:
        assert params.load(["rho"], path)["rho"] == YAML(typ="safe").load(TEXT)["rho"]

    check_refusal(load, "params.yaml")


def byte_changes(size: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    """Some bytes to replace, most of them near the beginning, where headers are."""
    place = st.one_of(st.integers(0, min(size - 1, 200)), st.integers(0, size - 1))
    return st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)


def flip_bytes(content: bytes, changes: list[tuple[int, int]], keep: float) -> bytes:
    """Replace these bytes of the content, and cut it."""
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place] = value
    return bytes(damaged[: round(keep * len(damaged))])


KEEP = st.sampled_from((1.0, 1.0, 1.0, 0.5, 0.0))


def read_every_tensor(path: Path) -> None:
    """Read the header and all tensors."""
    file = store.TensorFile(path)
    file.shapes()
    dict(file)


TENSORS = {
    "first": toy.torch.ones(3, 4),
    "second": toy.torch.arange(5),
    "third": toy.torch.zeros(2, dtype=toy.torch.bool),
}
BINARY: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "safetensors": (lambda path: store.write_tensors(path, TENSORS), read_every_tensor),
    "npy": (
        lambda path: store.write_array(path, np.arange(24).reshape(4, 6)),
        lambda path: store.read_array(path).sum(),
    ),
    "npz": (lambda path: store.write_arrays(path, {"a": np.eye(3), "b": np.arange(4)}), store.read_arrays),
    "json": (lambda path: store.write_json(path, {"a": [1, 2.5, "ü"], "b": {"c": None}}), store.read_json),
}


@pytest.mark.parametrize("kind", BINARY)
@fuzzed
@given(data=st.data())
def test_any_bytes_of_a_file(folder: Path, kind: str, data: st.DataObject):
    write, read = BINARY[kind]
    path = folder / f"x.{kind}"
    write(path)
    content = path.read_bytes()
    path.write_bytes(flip_bytes(content, data.draw(byte_changes(len(content))), data.draw(KEEP)))
    check_refusal(lambda: read(path), path.name)


@pytest.mark.filterwarnings("ignore")
@fuzzed
@given(data=st.data())
def test_any_header_of_tensors(folder: Path, data: st.DataObject):
    entry = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = change_content({"x": entry, "__metadata__": {"format": "pt"}}, data, VALUES)
    text = json.dumps(header, default=str, skipkeys=True).encode()
    path = folder / "x.safetensors"
    length = data.draw(st.sampled_from((len(text), 0, 2**32, 2**63, 2**64 - 1)))
    path.write_bytes(struct.pack("<Q", length) + text + bytes(24))
    check_refusal(lambda: read_every_tensor(path), path.name)


def open_suite(folder: Path) -> None:
    """Open the folder and build its tower."""
    SuiteFolder(folder).suite.encoder()


@fuzzed
@given(data=st.data())
def test_any_suite_file(pristine_suite: Path, folder: Path, data: st.DataObject):
    broken = folder / "suite"
    if not broken.exists():
        shutil.copytree(pristine_suite, broken)
    content = change_content(json.loads((pristine_suite / "suite.json").read_text()), data, VALUES)
    (broken / "suite.json").write_text(json.dumps(content, default=str, skipkeys=True))
    check_refusal(lambda: open_suite(broken), "suite")


@fuzzed
@given(data=st.data())
def test_any_merge_file(pristine_suite: Path, folder: Path, data: st.DataObject):
    artefact, suite = folder / "merge", SuiteFolder(pristine_suite)
    solution = Solution(toy.torch.full((3, len(suite.suite.groups)), 0.3))
    if not artefact.exists():
        none = dict.fromkeys(suite.suite.task_names, 0)
        storage.save(storage.Merges((None,), none, suite.suite.groups, [solution]), artefact)
        shutil.copy(artefact / "merge.json", folder / "merge.json")
    content = change_content(json.loads((folder / "merge.json").read_text()), data, VALUES)
    (artefact / "merge.json").write_text(json.dumps(content, default=str, skipkeys=True))
    check_refusal(lambda: [*storage.load_models(suite, artefact, 0)], "merge")


ROWS = [("tiny", "ties", "cats", 0, 8, 3, 7), ("tiny", "ties", "dogs", 0, 8, 2, 7)]
CELLS = st.one_of(st.text(max_size=6), st.integers().map(str), st.floats().map(str), st.just("9" * 30), st.just('"'))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # numpy's, before the refusal
@fuzzed
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), CELLS), max_size=4), st.sampled_from((0, 1, 3)))
def test_any_scores(edits: list[tuple[int, int, str]], lines: int):
    table = [list(map(str, row)) for row in (scores.COLUMNS, *ROWS)]
    for row, column, text in edits:
        table[row][column] = text
    text = "\n".join(",".join(row) for row in table[:lines]) + "\n"
    check_refusal(lambda: scores.check_scores(scores.parse_scores(text, "ties.csv"), ("cats", "dogs")))


@fuzzed
@given(st.binary(max_size=80))
def test_any_bytes_of_scores(content: bytes):
    check_refusal(lambda: scores.parse_scores(content.decode("latin-1"), "ties.csv"), "ties.csv")


def test_a_suite_survives_a_round_trip(pristine_suite: Path):
    text = (pristine_suite / "suite.json").read_text()
    assert Suite.model_validate(json.load(io.StringIO(text))).model_dump(mode="json") == json.loads(text)
