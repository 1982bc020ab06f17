"""Files are written whole or not at all, with the same bytes every time, and hold finite numbers only."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.runtime import store
from pipeline.runtime.store import StoreError


class Killed(BaseException):
    """Stands for a signal in the middle of a write."""


@pytest.mark.parametrize("existing", [True, False])
def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, existing: bool):
    path = tmp_path / "deep" / "file.txt"
    if existing:
        store.write_text(path, "old")
    with pytest.raises(Killed), store.replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise Killed
    assert path.exists() == existing
    assert not existing or path.read_text() == "old"
    assert [*path.parent.iterdir()] == [path] * existing


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "file.txt"
    store.write_text(path, "old")
    with store.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.txt"
    store.write_text(path, "old")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "fsync", fail)
    with pytest.raises(StoreError, match=r"file\.txt: cannot be written \(disk full\); make room"):
        store.write_text(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"file/x\.json: cannot be written"):
        store.write_json(tmp_path / "file" / "x.json", 1)


def test_a_claimed_folder_is_empty_and_belongs_to_one_process(tmp_path: Path):
    folder = tmp_path / "deep" / "scratch"
    (folder / "left").mkdir(parents=True)
    with store.claiming(folder):
        assert not [*folder.iterdir()]
        (folder / "mine").mkdir()
        with pytest.raises(StoreError, match="another process does the same work"), store.claiming(folder):
            pass
        assert [path.name for path in folder.iterdir()] == ["mine"]
    assert not folder.exists()
    with pytest.raises(Killed), store.claiming(folder):
        raise Killed
    with store.claiming(folder):
        pass


@pytest.mark.parametrize("old", [None, "file", "folder"])
def test_a_moved_path_replaces_the_old_one(tmp_path: Path, old: str | None):
    source, path = tmp_path / "scratch" / "x", tmp_path / "deep" / "x"
    if old == "folder":
        store.write_text(path / "stale", "old")
        store.write_text(source / "fresh", "new")
    else:
        store.write_text(source, "new")
        if old:
            store.write_text(path, "old")
    store.move(source, path)
    contents = {
        file.relative_to(path).as_posix(): file.read_text() for file in [path, *path.rglob("*")] if file.is_file()
    }
    assert contents == ({"fresh": "new"} if old == "folder" else {".": "new"})
    assert not source.exists()


def test_written_files_have_the_usual_permissions(tmp_path: Path):
    path, plain = tmp_path / "file.txt", tmp_path / "plain.txt"
    store.write_text(path, "x")
    plain.write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float):
    path = tmp_path / "t.safetensors"
    with pytest.raises(StoreError, match="tensor 'b' holds non-finite values") as caught:
        store.write_tensors(path, {"a": torch.ones(2), "b": torch.tensor([0.0, value])})
    assert str(path) in str(caught.value)
    assert not path.exists()


def test_tensors_whose_sum_overflows_are_kept(tmp_path: Path):
    path = tmp_path / "large.safetensors"
    store.write_tensors(path, {"a": torch.full((4,), 3e38)})
    assert torch.equal(store.TensorFile(path)["a"], torch.full((4,), 3e38))


def test_json_refuses_values_that_are_not_finite(tmp_path: Path):
    with pytest.raises(ValueError, match="Out of range float values"):
        store.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not [*tmp_path.iterdir()]


def test_tensors_are_read_one_by_one(tmp_path: Path):
    path = tmp_path / "t.safetensors"
    content = {"b": torch.randn(2, 3, dtype=torch.float64), "a": torch.arange(4), "c": torch.ones(3, 2).T}
    store.write_tensors(path, content)
    tensors = store.TensorFile(path)
    assert {*tensors} == {*content}
    assert len(tensors) == 3
    assert all(torch.equal(tensors[name], tensor) for name, tensor in content.items())
    assert tensors.shapes() == {"a": (4,), "b": (2, 3), "c": (2, 3)}
    assert "d" not in tensors
    with pytest.raises(KeyError):
        tensors["d"]


def test_bytes_depend_on_the_content_alone(tmp_path: Path):
    rows = [("a", 1, None), ("b", 2.5, "x,y")]
    arrays = {"y": np.arange(3), "x": np.eye(2)}
    tensors = {"y": torch.arange(3), "x": torch.eye(2)}
    written = []
    for reverse in (False, True):
        folder = tmp_path / str(reverse)
        store.write_json(
            folder / "x.json", dict(sorted({"b": [1, 2], "a": {"d": 1, "c": "ü"}}.items(), reverse=reverse))
        )
        store.write_csv(folder / "x.csv", ("p", "q", "r"), rows)
        store.write_tensors(folder / "x.safetensors", tensors)
        store.write_array(folder / "x.npy", np.arange(6).reshape(2, 3))
        store.write_arrays(folder / "x.npz", arrays)
        written.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    assert written[0] == written[1]
    assert len(written[0]) == 5


def test_csv_is_plain(tmp_path: Path):
    store.write_csv(tmp_path / "x.csv", ("p", "q"), [(1, None), ("a,b", 'c"d')])
    assert (tmp_path / "x.csv").read_bytes() == b'p,q\n1,\n"a,b","c""d"\n'


def test_json_is_sorted_and_readable(tmp_path: Path):
    store.write_json(tmp_path / "x.json", {"b": 1, "a": "λ"})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n "a": "λ",\n "b": 1\n}\n'
    assert store.read_json(tmp_path / "x.json") == json.loads('{"a": "λ", "b": 1}')


def test_arrays_are_read_as_written(tmp_path: Path):
    store.write_array(tmp_path / "x.npy", np.arange(6).reshape(2, 3))
    store.write_arrays(tmp_path / "x.npz", {"a": np.eye(2), "b": np.arange(3)})
    array = store.read_array(tmp_path / "x.npy")
    assert (array == np.arange(6).reshape(2, 3)).all()
    assert not array.flags.writeable
    arrays = store.read_arrays(tmp_path / "x.npz")
    assert {*arrays} == {"a", "b"}
    assert (arrays["b"] == np.arange(3)).all()


READERS = {
    "text": (store.read_text, "x.txt"),
    "json": (store.read_json, "x.json"),
    "tensors": (store.TensorFile, "x.safetensors"),
    "array": (store.read_array, "x.npy"),
    "arrays": (store.read_arrays, "x.npz"),
}


@pytest.mark.parametrize(("reader", "name"), READERS.values(), ids=READERS)
def test_a_missing_file_is_named(tmp_path: Path, reader, name: str):
    with pytest.raises(StoreError) as caught:
        reader(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(("reader", "name"), [pair for key, pair in READERS.items() if key != "text"])
@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_file_is_named(tmp_path: Path, reader, name: str, keep: float):
    path = tmp_path / name
    store.write_json(tmp_path / "x.json", {"a": [*range(100)]})
    store.write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(100)})
    store.write_array(tmp_path / "x.npy", np.arange(100))
    store.write_arrays(tmp_path / "x.npz", {"a": np.arange(100)})
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: keep if keep != 0.5 else size // 2])
    with pytest.raises(StoreError) as caught:
        reader(path)
    assert str(path) in str(caught.value)


def test_an_archive_with_a_member_marked_encrypted_is_named(tmp_path: Path):
    path = tmp_path / "x.npz"
    store.write_arrays(path, {"a": np.arange(3)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"x\.npz: cannot be read as .*encrypted"):
        store.read_arrays(path)


@pytest.mark.parametrize("reader", [store.read_array, store.read_arrays])
def test_pickles_are_never_loaded(tmp_path: Path, reader):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError):
        reader(path)
