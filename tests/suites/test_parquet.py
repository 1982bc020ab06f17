"""Footers tell columns, class names and rows, from a file or from its end; labels follow the class names."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_data, _parquet
from pipeline.suites._clip_tasks import CLIP_TASKS, ClipTask, find_task
from pipeline.suites._labels import read_labels
from tests.support import replicas

CLASSES = ["daisy", "dandelion", "rose", "sunflower", "tulip"]
TASK = find_task("svhn").model_copy(
    update={"name": "flowers", "classes": tuple(CLASSES), "test_size": 5, "dataset": "./flowers"}
)


def write(path: Path, labels: pa.Array, names: object = None, metadata: str | None = None) -> Path:
    """Write a parquet file of as many images as labels; `names`: of the ClassLabel."""
    table = pa.table({"image": [b"no image"] * len(labels), "label": labels})
    if names is not None:
        metadata = json.dumps({"info": {"features": {"label": {"names": names}}}})
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, path, row_group_size=2)
    return path


def check(path: Path, task: ClipTask = TASK) -> None:
    """Check a file as the whole test split."""
    _clip_data.check_test(task, [_parquet.read_footer(path)])


def test_the_end_of_a_file_tells_what_the_file_does(tmp_path: Path):
    path = write(tmp_path / "test.parquet", pa.array(range(5)), CLASSES)
    content = path.read_bytes()
    length = _parquet.footer_length(content[-8:])
    for tail in (content, content[-length:], content[-length - 3 :]):
        footer = _parquet.parse_footer(str(path), tail)
        assert footer == _parquet.read_footer(path)
    assert footer.groups == (2, 2, 1)
    with pytest.raises(BenchmarkError, match="hub: cannot be read as parquet"):
        _parquet.parse_footer("hub", content[-length + 1 :])


@pytest.mark.parametrize("name", CLIP_TASKS)
def test_the_footers_of_every_dataset_pass(name: str):
    task = find_task(name).model_copy(update={"test_size": 6})
    files = replicas.datasets(12, 6)[task.dataset]
    for split, judge in ((task.train_split, _clip_data.check_train), (task.test_split, _clip_data.check_test)):
        names = _parquet_names(files, task, split)
        judge(task, [_parquet.parse_footer(file, files[file]) for file in names])


def _parquet_names(files: dict[str, bytes], task: ClipTask, split: str) -> list[str]:
    return _parquet.find_parquet_files([*files], task.config, split)


def test_food101_in_the_order_of_the_prompts_is_refused():
    task = find_task("food101").model_copy(update={"test_size": 6, "stored_classes": ()})
    files = replicas.datasets(12, 6)[task.dataset]
    footers = [_parquet.parse_footer(file, files[file]) for file in _parquet_names(files, task, task.test_split)]
    with pytest.raises(BenchmarkError, match="99 names agree; 'cheesecake' is 16 in the file, 17 in the suite"):
        _clip_data.check_test(task, footers)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dandelion", "daisy", "rose", "sunflower", "tulip"], "3 names agree; 'dandelion' is 0 in the file, 1 in the"),
        (
            ["dandelion", "Daisies", "rose", "sunflower", "tulip"],
            "3 names agree; 'dandelion' is 0 in the file, 1 in the",
        ),
        (["rose", "a", "b", "c", "d"], "0 names agree; 'rose' is 0 in the file, 2 in the suite"),
        (CLASSES[:4], "has 4 classes, .* expected those of flowers in their order: 5, .*; 4 names agree$"),
    ],
)
def test_class_names_in_another_order_are_refused(tmp_path: Path, names: list[str], message: str):
    path = write(tmp_path / "test.parquet", pa.array(range(5)), names)
    for judge in (check, lambda file: read_labels(file, TASK.labels)):
        with pytest.raises(BenchmarkError, match=message):
            judge(path)


def test_names_that_are_spelt_otherwise_are_accepted(tmp_path: Path):
    names = ["Daisy", "taraxacum", "Rose!", "sun flower", "TULIP"]
    check(write(tmp_path / "test.parquet", pa.array(range(5)), names))


def test_names_with_one_plain_spelling_are_told_apart(tmp_path: Path):
    task = TASK.model_copy(update={"classes": ("C", "C++", "go", "rust", "zig")})
    path = write(tmp_path / "texts.parquet", pa.array(["C++", "C", "Go", "rust", "zig"]))
    assert read_labels(path, task.labels).tolist() == [1, 0, 2, 3, 4]
    exchanged = write(tmp_path / "test.parquet", pa.array(range(5)), ["C++", "C", "go", "rust", "zig"])
    with pytest.raises(BenchmarkError, match=r"3 names agree; 'C\+\+' is 0 in the file, 1 in the suite"):
        check(exchanged, task)


@pytest.mark.parametrize(
    "metadata", ["no JSON", "[1]", '{"info": 3}', '{"info": {"features": {"label": {"names": [1, 2]}}}}', '"x"']
)
def test_malformed_metadata_is_named(tmp_path: Path, metadata: str):
    path = write(tmp_path / "test.parquet", pa.array(range(5)), metadata=metadata)
    with pytest.raises(BenchmarkError, match=r"test.parquet: the schema's metadata `huggingface` is not what"):
        check(path)


@pytest.mark.parametrize("metadata", ["{}", '{"info": {}}', '{"info": {"features": {}}}'])
def test_metadata_may_say_nothing(tmp_path: Path, metadata: str):
    check(write(tmp_path / "test.parquet", pa.array(range(5)), metadata=metadata))


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_labels_may_be_text_of_every_kind(tmp_path: Path, kind: pa.DataType):
    texts = ["rose", "Daisy", "tulip", "dandelion", "sunflower"]
    path = write(tmp_path / "test.parquet", pa.array(texts).cast(kind))
    check(path)
    assert read_labels(path, TASK.labels).tolist() == [2, 0, 4, 1, 3]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a.jpg"] * 5, "label": range(5)}, "image is string, expected the bytes of image files"),
        ({"image": [{"path": "a.jpg"}] * 5, "label": range(5)}, r"image is struct<path: string>, expected the bytes"),
        ({"image": [b"x"] * 5, "label": [0.5] * 5}, "label is double, expected whole numbers or class names"),
        ({"image": [b"x"] * 5, "labels": range(5)}, r"no column label, the file has \['image', 'labels'\]"),
        ({"picture": [b"x"] * 5, "label": range(5)}, r"no column image, the file has \['picture', 'label'\]"),
        ({"image": [b"x"] * 4, "label": range(4)}, r"flowers: the test split .* has 4 images, expected 5; published"),
    ],
)
def test_what_a_footer_lacks_is_named(tmp_path: Path, columns: dict, message: str):
    table = pa.table({name: pa.array([*values]) for name, values in columns.items()})
    parquet.write_table(table, tmp_path / "test.parquet")
    with pytest.raises(BenchmarkError, match=message):
        check(tmp_path / "test.parquet")


def test_few_training_images_are_refused(tmp_path: Path):
    for rows in (10, 9):
        path = write(tmp_path / f"{rows}.parquet", pa.array([0] * rows))
        footers = [_parquet.read_footer(path)]
        if rows == 10:
            _clip_data.check_train(TASK, footers)
    with pytest.raises(BenchmarkError, match="has 9 images; at least 10 are needed, 10 % become validation"):
        _clip_data.check_train(TASK, footers)


@pytest.mark.parametrize(
    ("names", "config", "expected"),
    [
        (["data/test-00001-of-00002.parquet", "data/test-00000-of-00002.parquet"], None, [1, 0]),
        (["data/test-00000-of-00001-3bfa172e8818685a.parquet", "data/train-00000-of-00001-a.parquet"], None, [0]),
        (["a/test-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"], "b", [1]),
        (["a/test-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], None, [1]),
        (["mnist/test-00000-of-00001.parquet"], None, [0]),
        (["default/test/0001.parquet", "default/test/0000.parquet", "default/train/0000.parquet"], None, [1, 0]),
        (["a/test/0000.parquet", "b/test/0000.parquet"], "a", [0]),
        (["test.parquet", "train.parquet", "latest.parquet"], None, [0]),
        (["data/test.parquet", "data/corrupted_test-00000-of-00001.parquet", "data/test.csv"], None, [0]),
    ],
)
def test_parquet_files_of_every_layout_are_found(names: list[str], config: str | None, expected: list[int]):
    assert _parquet.find_parquet_files(names, config, "test") == [names[index] for index in expected]


@pytest.mark.parametrize(
    ("names", "config", "message"),
    [
        ([], None, "no parquet file of split 'test'; the repository has: "),
        (["train/0.tar", "test/0.tar"], None, r"no parquet .*has: test/0.tar, train/0.tar \(2 files\)"),
        (["partial-test/0000.parquet"], None, r"only a part of split 'test' was converted to parquet \(partial-test\)"),
        (["a/test.parquet"], "b", "no parquet file of split 'test' of configuration 'b'; the repository has: a/test"),
        (["a/test.parquet", "b/test.parquet"], None, "several folders hold split 'test', name a configuration"),
        (["data/test-00001-of-00002.parquet"], None, "split 'test': expected 2 files, each number once, found data/"),
        (["data/test-00000-of-00001-a.parquet", "data/test-00000-of-00001-b.parquet"], None, "expected 1 files"),
        (["default/test/0001.parquet"], None, "expected 1 files, each number once"),
    ],
)
def test_missing_parquet_files_are_named(names: list[str], config: str | None, message: str):
    with pytest.raises(BenchmarkError, match=message):
        _parquet.find_parquet_files(names, config, "test")
