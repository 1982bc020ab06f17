"""Malicious files and names are refused, or shown as plain text."""

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pipeline import params
from pipeline.merges import storage
from pipeline.merges.solution import Solution
from pipeline.models.suite import SuiteFolder, Task
from pipeline.report import page, tables
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_images as images
from pipeline.suites._checkpoints import Checkpoint
from tests.support import toy
from tests.test_params import changed

EVIL = "<script>alert(1)</script> & \\input{/etc/passwd} $x$ | `x` [a](javascript:b)"
OUTSIDE = ("../x", "/etc/passwd", "a/../../x", "..", "", "a\0b", "a/b", "~", "x" * 81, "-rf", "A", "a b", "a\n")


class Code:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder,)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".npy", ".npz", ".safetensors", ".json"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(tmp_path: Path, suffix: str, zipped: bool):
    path, folder = tmp_path / f"expert{suffix}", tmp_path / "run"
    if zipped:
        torch.save({"weight": Code(folder)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Code(folder)}, protocol=2))
    readers = {".npy": store.read_array, ".npz": store.read_arrays, ".safetensors": store.TensorFile}
    reader = {**readers, ".json": store.read_json}.get(suffix, lambda file: Checkpoint(file, "expert"))
    with pytest.raises(BenchmarkError) as caught:
        reader(path)
    assert path.name in str(caught.value)
    assert not folder.exists()
    if not zipped:
        pickle.loads(path.read_bytes())  # the file would have done it
        assert folder.exists()


@pytest.mark.parametrize("length", [2**40, 2**63 - 1, 2**64 - 1, 100_000_001])
def test_a_header_of_absurd_size_is_refused_without_memory(tmp_path: Path, length: int):
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(store.StoreError, match=r"x\.safetensors: cannot be read as safetensors"):
        store.TensorFile(path)


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**40]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
        {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "xy"},
    ],
)
def test_tensors_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path, header: dict[str, Any]):
    path, text = tmp_path / "x.safetensors", json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(store.StoreError, match=r"x\.safetensors"):
        store.TensorFile(path)


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((9, 9)))
    path.write_bytes(path.read_bytes().replace(b"(9, 9), }            ", b"(900000000, 90000), }"))
    with pytest.raises(store.StoreError, match=r"x\.npy"):
        store.read_array(path)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_task_name_cannot_be_a_path(pristine_suite: Path, tmp_path: Path, name: str):
    content = json.loads((pristine_suite / "suite.json").read_text())
    content["tasks"][0]["name"] = name
    (tmp_path / "suite.json").write_text(json.dumps(content))
    with pytest.raises(BenchmarkError, match=r"tasks\.0\.name"):
        SuiteFolder(tmp_path)
    with pytest.raises(ValidationError):
        Task(name=name, classes=())


@pytest.mark.parametrize("kind", ["masks/../..", "os", "../x", "__init__", "heads\n"])
def test_the_extras_of_a_merge_are_of_a_known_kind(tmp_path: Path, kind: str):
    none = dict.fromkeys(toy.TASKS, 0)
    solution = Solution(torch.zeros(3, len(toy.GROUPS)))
    storage.save(storage.Merges((None,), none, toy.GROUPS, [solution]), tmp_path)
    description = json.loads((tmp_path / "merge.json").read_text())
    (tmp_path / "merge.json").write_text(json.dumps({**description, "extras": kind}))
    with pytest.raises(BenchmarkError, match=r"merge\.json: extras"):
        storage.load(tmp_path)


@pytest.mark.parametrize("name", ["../ties", "/etc/passwd", "ties/../../x", "os", "__init__", "ties; rm -rf x"])
@pytest.mark.parametrize("kind", ["merge", "calibrate", "study", "rescale", "surgery"])
def test_an_unknown_method_is_refused(kind: str, name: str):
    with pytest.raises(params.ParamsError, match=f"methods.{kind}"):
        params.check(changed(f"methods+{kind}", [name]))


@pytest.mark.parametrize("name", ["../mini-8", "/etc/passwd", "mini-8; rm -rf x"])
def test_an_unknown_suite_is_refused(name: str):
    with pytest.raises(params.ParamsError, match="no such suite"):
        params.check(changed("suites", [name]))


def test_yaml_builds_no_objects(tmp_path: Path):
    path, folder = tmp_path / "params.yaml", tmp_path / "run"
    path.write_text(f"rho: !!python/object/apply:os.mkdir [{folder}]\n")
    with pytest.raises(params.ParamsError, match="not valid YAML"):
        params.check(params.read(path))
    assert not folder.exists()


def test_aliases_of_aliases_do_not_explode(tmp_path: Path):
    levels = [f"a{level + 1}: &a{level + 1} [{', '.join([f'*a{level}'] * 9)}]" for level in range(30)]
    path = tmp_path / "params.yaml"
    text = (toy.ROOT / "params.yaml").read_text().replace("\nrho: 0.07\n", "\nrho: *a30\n")
    path.write_text("\n".join(["a0: &a0 [x]", *levels, text]))
    with pytest.raises(params.ParamsError, match=r"a0 = \['x'\]: no such parameter") as caught:
        params.check(params.read(path))
    assert len(str(caught.value)) < 50_000


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    code = (
        "import io, resource, struct, zlib\n"
        "from pipeline.suites import _clip_images as images\n"
        "chunk = lambda kind, data: (struct.pack('>I', len(data)) + kind + data\n"
        "                            + struct.pack('>I', zlib.crc32(kind + data)))\n"
        "head = struct.pack('>IIBBBBB', 100_000, 100_000, 8, 2, 0, 0, 0)\n"
        "bomb = b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(bytes(99)))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    images.decode_image(bomb + chunk(b'IEND', b''))\n"
        "except images.BROKEN as error:\n    print(type(error).__name__)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=toy.ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["DecompressionBombError", "True"], done.stderr
    assert images.Image.DecompressionBombError in images.BROKEN


CELL = tables.Cell(EVIL, "", "")
TABLE = tables.Table(EVIL, (EVIL,), ((EVIL, ((EVIL, (CELL,)),)),), head=EVIL)


def test_the_page_shows_names_as_text():
    blocks = (
        page.Prose((EVIL,), (EVIL,), EVIL, "prose", (page.Link(EVIL, "x.csv"),)),
        page.Grid("grid", EVIL, TABLE),
        page.Figure("figure", EVIL, "<svg></svg>", EVIL),
        page.Entries((page.MethodEntry("entry", EVIL, EVIL, EVIL, EVIL),)),
        page.Fold("fold", EVIL, (page.Prose((EVIL,)),)),
    )
    content = page.Page(EVIL, (page.Prose((EVIL,)),), (page.Section("section", EVIL, blocks),))
    html = page.render_page(content)
    assert html.count("<script") == 1, "the page's own"
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 20
    assert 'href="javascript' not in html


def test_tables_show_names_as_text():
    latex, plain = tables.latex(TABLE, "x"), tables.markdown(TABLE)
    assert "\\input" not in latex
    assert latex.count(r"\textbackslash{}input\{/etc/passwd\} \$x\$") == 6
    assert "<script" not in plain.replace(r"\<script", "")
    assert plain.count(r"\<script\>") == 6
    assert "`x`" not in plain.replace(r"\`x\`", "")
