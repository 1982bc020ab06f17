"""Images in folders and tars become the same rows as in parquet files."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_images as images
from pipeline.suites import _packing
from pipeline.suites._clip_tasks import ClipTask, find_task

CLASSES = ("red rose", "tulip")
RNG = np.random.default_rng(0)


def define(root: Path, **changes: object) -> ClipTask:
    """Define a task whose images are in the folder `root`."""
    content = {"name": "flowers", "classes": CLASSES, "test_size": 2, "dataset": str(root), **changes}
    return find_task("svhn").model_copy(update=content)


def draw(root: Path, *names: str) -> list[str]:
    """Write a noisy image under each name; return all names below `root`, sorted."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(root / name)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_a_folder_per_class_gives_labelled_rows(tmp_path: Path):
    root = tmp_path / "flowers"
    names = draw(root, *(f"train/{kind}/{i}.png" for kind in ("Tulip", "red_rose") for i in range(3)))
    names = draw(root, "test/Tulip/a.jpg", "test/red_rose/b.webp")
    task = define(root)
    packed = _packing.pack_folder(task, names, tmp_path / "packed")
    assert packed["train"].labelled
    assert packed["test"].labelled
    train, test = (images.ParquetSplit([packed[split].path], task) for split in ("train", "test"))
    assert train.labels().tolist() == [1, 1, 1, 0, 0, 0]
    assert test.labels().tolist() == [1, 0]
    expected = images.preprocess_image(images.decode_image((root / "train/Tulip/2.png").read_bytes()))
    assert (train.image(2) == expected).all()
    again = _packing.pack_folder(task, names, tmp_path / "again")
    assert again["train"].path.read_bytes() == packed["train"].path.read_bytes()


def test_folders_with_one_plain_spelling_are_not_mixed_up(tmp_path: Path):
    root = tmp_path / "flowers"
    names = draw(root, "train/C/a.png", "train/C++/b.png", "test/C/c.png", "test/C++/d.png")
    packed = _packing.pack_folder(define(root, classes=("C++", "C")), names, tmp_path / "packed")
    assert parquet.read_table(packed["test"].path)["label"].to_pylist() == [0, 1]
    with pytest.raises(BenchmarkError, match="train/C: 'C' is no class of the suite"):
        _packing.pack_folder(define(root, classes=("c", "c-")), names, tmp_path / "ambiguous")


def test_flat_images_have_no_labels(tmp_path: Path):
    root = tmp_path / "flowers"
    names = draw(root, *(f"train/{i}.png" for i in range(4)), "test/tulip/a.png", "test/red rose/b.png")
    packed = _packing.pack_folder(define(root, label_offset=1), names, tmp_path / "packed")
    assert {split: part.labelled for split, part in packed.items()} == {"train": False, "test": True}
    assert parquet.read_table(packed["test"].path)["label"].to_pylist() == [1, 2]


def test_images_without_folders_are_divided(tmp_path: Path):
    root = tmp_path / "photos"
    names = draw(root, *(f"{i:02}.png" for i in range(12)))
    packed = _packing.pack_folder(define(root), names, tmp_path / "packed")
    parts = {
        split: [Path(cell["path"]).name for cell in parquet.read_table(part.path)["image"].to_pylist()]
        for split, part in packed.items()
    }
    assert not any(part.labelled for part in packed.values())
    assert len(parts["test"]) == 2
    assert sorted(parts["train"] + parts["test"]) == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/tulip/a.png",), "has no images in test/; expected test/<class>/<image>, or images without folders"),
        (
            ("train/tulip/a.png", "test/tulpi/b.png"),
            r"test/tulpi: 'tulpi' is no class of the suite; did you mean 'tulip'\? Expected a folder for each",
        ),
        (("train/tulip/a.png", "train/b.png", "test/tulip/c.png"), "expected every image of train in a folder of its"),
        (("train/x/tulip/a.png", "test/tulip/c.png"), "train/x/tulip/a.png: expected every image of train in a folder"),
        (("train/b.png", "train/tulip/a.png", "test/tulip/c.png"), "train/b.png: expected every image of train in a"),
        (("a.png", "b.png"), "flowers has 2 images, test_size 2 leaves none for train"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, names: tuple[str, ...], message: str):
    listed = draw(tmp_path / "flowers", *names)
    with pytest.raises(BenchmarkError, match=message):
        _packing.pack_folder(define(tmp_path / "flowers"), listed, tmp_path / "packed")


def test_an_image_that_cannot_be_decoded_is_named_by_its_own_file(tmp_path: Path):
    root = tmp_path / "flowers"
    names = draw(root, "train/tulip/a.png", "test/tulip/b.png")
    (root / "train/tulip/a.png").write_text("no image")
    task = define(root)
    packed = _packing.pack_folder(task, names, tmp_path / "packed")
    with pytest.raises(BenchmarkError, match=rf"flowers: {root}/train/tulip/a.png: the image cannot .*; replace or"):
        images.ParquetSplit([packed["train"].path], task).image(0)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar with these members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def picture() -> bytes:
    """Encode a noisy image."""
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_webdataset_gives_its_pairs_in_order(tmp_path: Path):
    task, pictures = find_task("fer2013"), [picture() for _ in range(3)]
    first = {"s0.jpg": pictures[0], "s0.cls": b"6", "s1.cls": b"0", "s1.jpg": pictures[1], "notes.txt": b"x"}
    tars = [
        write_tar(tmp_path / "train/0.tar", first),
        write_tar(tmp_path / "train/1.tar", {"s0.jpg": pictures[2], "s0.cls": b"3"}),
    ]
    names = ["train/10.tar", "train/1.tar", "train/0.tar", "test/0.tar", "train/nshards.txt"]
    assert _packing.find_tars(names, "train") == ["train/0.tar", "train/1.tar", "train/10.tar"]
    packed = _packing.pack_tars(task, tars, tmp_path / "train.parquet")
    split = images.ParquetSplit([packed.path], task)
    assert packed.labelled
    assert split.labels().tolist() == [6, 0, 3]
    for row, content in enumerate(pictures):
        assert (split.image(row) == images.preprocess_image(images.decode_image(content))).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"s0.jpg": b"x"}, "s0 has no image or no .cls"),
        ({"s0.cls": b"1"}, "s0 has no image or no .cls"),
        ({"s0.jpg": b"x", "s0.cls": b"one"}, "cannot be read as a WebDataset"),
    ],
)
def test_a_damaged_webdataset_is_named(tmp_path: Path, members: dict[str, bytes], message: str):
    path = write_tar(tmp_path / "0.tar", members)
    with pytest.raises(BenchmarkError, match=rf"fer2013: .*0.tar: {message}"):
        _packing.pack_tars(find_task("fer2013"), [path], tmp_path / "train.parquet")
    path.write_bytes(b"no tar")
    with pytest.raises(BenchmarkError, match="cannot be read as a WebDataset"):
        _packing.pack_tars(find_task("fer2013"), [path], tmp_path / "train.parquet")
