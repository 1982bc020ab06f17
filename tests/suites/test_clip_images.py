"""Decoding follows CLIP's preprocessing and every dataset's quirks; the number of processes does not matter."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image, ImageFile
from pyarrow import parquet

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites import _clip_images as images
from pipeline.suites._clip_tasks import CLIP_TASKS, ClipTask, find_task
from pipeline.suites._parquet import find_parquet_files
from pipeline.suites._splits import count_overlap
from tests.support import replicas

ROWS = {"train": 12, "test": 6}
SIZES = [
    (224, 224), (28, 28), (32, 32), (1, 1), (3, 7), (223, 225), (225, 224), (224, 449), (640, 427), (427, 640),
    (301, 300), (300, 301), (17, 1000), (1000, 17), (2, 301), (500, 333), (333, 500), (96, 96), (251, 97), (1023, 767),
]  # fmt: skip
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replicas on disk: <repository>/<file>."""
    folder = tmp_path_factory.mktemp("hub")
    for repository, files in replicas.datasets(ROWS["train"], ROWS["test"]).items():
        for name, content in files.items():
            (folder / repository / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / repository / name).write_bytes(content)
    return folder


def files(hub: Path, task: ClipTask, split: str) -> list[Path]:
    """List the local files of a replica's split."""
    root = hub / task.dataset
    names = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    return [root / name for name in find_parquet_files(names, task.config, split)]


def picture(size: tuple[int, int] = (30, 20), mode: str = "RGB") -> Image.Image:
    """Draw a noisy image."""
    channels = () if mode in ("L", "P", "1") else (4,) if mode in ("RGBA", "CMYK") else (2,) if mode == "LA" else (3,)
    noise = RNG.integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    return Image.fromarray(noise).convert("1") if mode == "1" else Image.fromarray(noise).convert(mode)


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(
    path: Path, contents: list[bytes | None], labels: pa.Array, image: str = "image", label: str = "label", names=None
) -> Path:
    """Write a parquet file as `datasets` does."""
    cells = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(contents)]
    column = pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({image: column, label: labels})
    if names:
        features = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    parquet.write_table(table, path, row_group_size=2)
    return path


def reference(image: Image.Image) -> np.ndarray:
    """Preprocess an image with transformers' PIL processor, giving uint8 [224, 224, 3]."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)
    return np.moveaxis(np.asarray(processor(images=[image], return_tensors="np")["pixel_values"][0]), 0, -1)


@pytest.mark.parametrize("size", [*SIZES, *(tuple(int(side) for side in RNG.integers(20, 600, 2)) for _ in range(20))])
def test_preprocessing_agrees_with_clips_processor(size: tuple[int, int]):
    image = picture(size)
    pixels = images.preprocess_image(image)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - reference(image)).max() <= 1


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1"])
def test_opaque_modes_are_converted_like_clips_processor(mode: str):
    image = picture((61, 40), mode)
    assert np.abs(images.preprocess_image(image).astype(int) - reference(image)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_disregarded(mode: str):
    image = picture((61, 40), mode)
    opaque = image.copy()
    opaque.putalpha(255)
    assert (images.preprocess_image(image) == images.preprocess_image(opaque)).all()


def test_transparency_of_a_palette_is_disregarded():
    image = picture((61, 40), "RGB").quantize(16)
    content = encode(image, transparency=bytes(range(16)))
    assert images.decode_image(content).mode == "P"
    assert (images.preprocess_image(images.decode_image(content)) == images.preprocess_image(image)).all()


def test_16_bit_grey_is_scaled():
    wide = RNG.integers(0, 2**16, (30, 50), dtype=np.uint16)
    pixels = images.preprocess_image(images.decode_image(encode(Image.fromarray(wide))))
    assert (pixels == images.preprocess_image(Image.fromarray((wide >> 8).astype(np.uint8)))).all()
    assert pixels.max() > 200
    with pytest.raises(ValueError, match="pixels of mode F have no known range"):
        images.preprocess_image(Image.fromarray(np.ones((3, 3), np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int):
    image, exif = picture((40, 30)), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    decoded = images.decode_image(encode(image, exif=exif))
    upright = {
        1: image, 2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 3: image.transpose(Image.Transpose.ROTATE_180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5: image.transpose(Image.Transpose.TRANSPOSE),
        6: image.transpose(Image.Transpose.ROTATE_270), 7: image.transpose(Image.Transpose.TRANSVERSE),
        8: image.transpose(Image.Transpose.ROTATE_90),
    }  # fmt: skip
    assert (np.asarray(decoded) == np.asarray(upright[orientation])).all()


def test_damaged_exif_data_is_ignored():
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01\x03\0\x01\0\0"
    image = picture()
    content = encode(image, "JPEG", exif=damaged)
    assert (np.asarray(images.decode_image(content)) == np.asarray(Image.open(io.BytesIO(encode(image, "JPEG"))))).all()


@pytest.mark.parametrize("name", CLIP_TASKS)
@pytest.mark.parametrize("split", ROWS)
def test_every_dataset_is_decoded_in_full(hub: Path, tmp_path: Path, name: str, split: str):
    task = find_task(name)
    stored_split = task.train_split if split == "train" else task.test_split
    outputs = tmp_path / "images.npy", tmp_path / "labels.npy"
    images.decode_split(files(hub, task, stored_split), task, *outputs, None, 1)
    pixels, labels = (np.load(path) for path in outputs)
    assert pixels.shape == (ROWS[split], 224, 224, 3)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int64
    assert labels.tolist() == replicas.labels(task, ROWS[split])
    for row, label in enumerate(labels):
        content = replicas.encoded(task, stored_split, row, int(label))
        assert (pixels[row] == images.preprocess_image(Image.open(io.BytesIO(content)))).all()
    assert count_overlap(pixels, pixels) == len(pixels)


def test_replicas_are_deterministic_and_their_classes_look_different():
    assert replicas.datasets(3, 2) == replicas.datasets(3, 2)
    task = find_task("svhn")
    pixels = {
        (row, label): images.preprocess_image(Image.fromarray(replicas.pixels(task, "train", row, label))).astype(float)
        for row in range(2)
        for label in range(10)
    }
    for label in range(10):
        nearest = min(range(10), key=lambda other: np.abs(pixels[1, label] - pixels[0, other]).mean())
        assert nearest == label


def test_svhn_takes_cropped_digits(hub: Path):
    assert [path.parent.name for path in files(hub, find_task("svhn"), "test")] == ["cropped_digits"]
    other = find_task("svhn").model_copy(update={"config": "full_numbers"})
    with pytest.raises(BenchmarkError, match=r"no column image, the file has \['digits'\]"):
        images.ParquetSplit(files(hub, other, "test"), other)


def test_food101_is_tested_on_its_validation_split(hub: Path):
    assert find_task("food101").test_split == "validation"
    with pytest.raises(BenchmarkError, match=r"no parquet file of split 'test'.*data/validation-00000-of-00002"):
        files(hub, find_task("food101"), "test")


def test_fer2013_is_a_converted_webdataset(hub: Path):
    (path,) = files(hub, find_task("fer2013"), "test")
    assert parquet.read_schema(path).names == ["jpg", "__key__", "__url__", "cls"]
    assert images.ParquetSplit([path], find_task("fer2013")).labels().tolist() == [0, 1, 2, 3, 4, 5]


def test_pcam_labels_are_booleans(hub: Path):
    paths = files(hub, find_task("pcam"), "test")
    assert parquet.read_schema(paths[0]).field("label").type == pa.bool_()
    assert images.ParquetSplit(paths, find_task("pcam")).labels().tolist() == [0, 1, 0, 1, 0, 1]


def test_cifar100_takes_fine_labels(tmp_path: Path):
    content = [encode(picture())] * 2
    for column in ("label", "fine_label"):
        path = write_parquet(tmp_path / "test.parquet", content, pa.array([99, 0]), label=column)
        assert images.ParquetSplit([path], find_task("cifar100")).labels().tolist() == [99, 0]
    path = write_parquet(tmp_path / "test.parquet", content, pa.array([19, 0]), label="coarse_label")
    with pytest.raises(
        BenchmarkError, match=r"no column label or fine_label, the file has \['image', 'coarse_label'\]"
    ):
        images.ParquetSplit([path], find_task("cifar100")).labels()


def test_orientation_and_first_label_are_options(tmp_path: Path):
    emnist, image = find_task("emnist_letters"), picture((28, 28), "L")
    path = write_parquet(tmp_path / "test.parquet", [encode(image)] * 2, pa.array([1, 26]))
    with pytest.raises(
        BenchmarkError, match=r"row 1: label 26 is none of the 26 classes of emnist_letters \(first .*0"
    ):
        images.ParquetSplit([path], emnist).labels()
    turned = emnist.model_copy(update={"label_offset": 1, "transpose": True})
    split = images.ParquetSplit([path], turned)
    assert split.labels().tolist() == [0, 25]
    assert (split.image(0) == images.preprocess_image(Image.fromarray(np.asarray(image).T))).all()
    assert (images.ParquetSplit([path], emnist).image(0) == images.preprocess_image(image)).all()


def test_labels_may_be_names(tmp_path: Path):
    kmnist, content = find_task("kmnist"), [encode(picture())] * 2
    path = write_parquet(tmp_path / "test.parquet", content, pa.array(["を", "お"]))
    assert images.ParquetSplit([path], kmnist).labels().tolist() == [9, 0]
    romaji = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]
    path = write_parquet(tmp_path / "test.parquet", content, pa.array(["wo", "ki"]), names=romaji)
    assert images.ParquetSplit([path], kmnist).labels().tolist() == [9, 1]
    path = write_parquet(tmp_path / "test.parquet", content, pa.array(["wo", "ku"]), names=romaji)
    with pytest.raises(BenchmarkError, match="row 1: label 'ku' is none of the 10 classes of kmnist"):
        images.ParquetSplit([path], kmnist).labels()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pa.array([0, None]), "label has 1 nulls, expected a label for every row"),
        (pa.array([0, 10]), "row 1: label 10 is none of the 10 classes of svhn"),
        (pa.array([-1, 1]), "row 0: label -1 is none"),
    ],
)
def test_invalid_labels_are_refused(tmp_path: Path, labels: pa.Array, message: str):
    path = write_parquet(tmp_path / "test.parquet", [encode(picture())] * 2, labels)
    with pytest.raises(BenchmarkError, match=message):
        images.ParquetSplit([path], find_task("svhn")).labels()


def test_images_may_be_plain_bytes(tmp_path: Path):
    image = picture()
    parquet.write_table(pa.table({"image": [encode(image)], "label": [3]}), tmp_path / "test.parquet")
    split = images.ParquetSplit([tmp_path / "test.parquet"], find_task("svhn"))
    assert len(split) == 1
    assert (split.image(0) == images.preprocess_image(image)).all()


def test_rows_are_numbered_over_files_and_row_groups(hub: Path):
    task = find_task("sun397")
    split = images.ParquetSplit(files(hub, task, "train"), task)
    assert len(split) == len(split.labels()) == ROWS["train"]
    for row in (0, 3, 4, 11):
        content = replicas.encoded(task, "train", row, row)
        assert (split.image(row) == images.preprocess_image(images.decode_image(content))).all()
    with pytest.raises(BenchmarkError, match="sun397: expected ascending rows of 0 to 11, got"):
        split.image(12)


@pytest.mark.parametrize("name", ["sun397", "pcam"])
def test_processes_write_the_same_bytes(hub: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    task, pool = find_task(name), np.array([0, 2, 3, 7, 11])
    paths = files(hub, task, "train")
    for indices in (None, pool):
        contents = set()
        for workers, piece in ((1, 512), (1, 1), (2, 512)):
            monkeypatch.setattr(images, "PIECE", piece)
            outputs = tmp_path / "images.npy", tmp_path / "labels.npy"
            images.decode_split(paths, task, *outputs, indices, workers)
            contents.add(tuple(path.read_bytes() for path in outputs))
        assert len(contents) == 1
    everything = images.ParquetSplit(paths, task)
    assert (np.load(outputs[0]) == np.stack([everything.image(int(row)) for row in pool])).all()
    assert (np.load(outputs[1]) == everything.labels()[pool]).all()


def halve(content: bytes) -> bytes:
    """Return the first half of a file."""
    return content[: len(content) // 2]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (halve(encode(picture(), "JPEG")), "OSError: Truncated"),
        (halve(encode(picture((200, 200)), "JPEG")), "OSError: image file is truncated"),
        (halve(encode(picture((200, 200)))), "OSError: image file is truncated"),
        (b"no image", r"UnidentifiedImageError: cannot identify image file\)"),
        (encode(picture()).replace(b"IDAT", b"IDAX"), "[A-Za-z]+Error: "),
        (encode(Image.new("1", (1, 500000))), "DecompressionBombError: 1 x 500000 pixels: too elongated"),
    ],
)
def test_a_broken_image_stops_the_split(tmp_path: Path, content: bytes | None, reason: str, workers: int):
    good = encode(picture())
    path = write_parquet(tmp_path / "test-00000-of-00001.parquet", [good] * 3 + [content, good], pa.array([0] * 5))
    outputs = tmp_path / "out" / "images.npy", tmp_path / "out" / "labels.npy"
    message = rf"svhn: {path}: row 3 \(3.png\): the image cannot be decoded \({reason}.*; fetch the file of ufldl-"
    with pytest.raises(BenchmarkError, match=message):
        images.decode_split([path], find_task("svhn"), *outputs, None, workers)
    assert not list(outputs[0].parent.iterdir())
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    images.decode_split([path], find_task("svhn"), *outputs, np.array([0, 1, 2, 4]), 1)
    assert sorted(outputs[0].parent.iterdir()) == [*outputs]


@pytest.mark.parametrize(("pixels", "reason"), [(500, "DecompressionBombWarning"), (200, "DecompressionBombError")])
def test_an_absurdly_large_image_stops_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int, reason: str
):
    path = write_parquet(tmp_path / "test.parquet", [encode(picture((30, 20)))], pa.array([0]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(BenchmarkError, match=rf"row 0 \(0.png\): the image cannot be decoded \({reason}: "):
        images.ParquetSplit([path], find_task("svhn")).image(0)


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    path = write_parquet(tmp_path / "test.parquet", [b"no image"], pa.array([0]))
    outputs = tmp_path / "images.npy", tmp_path / "labels.npy"
    for output in outputs:
        output.write_bytes(b"old")
    with pytest.raises(BenchmarkError):
        images.decode_split([path], find_task("svhn"), *outputs, None, 1)
    assert sorted(tmp_path.iterdir()) == sorted([*outputs, path])
    assert {output.read_bytes() for output in outputs} == {b"old"}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_row_without_bytes_is_named(tmp_path: Path, workers: int):
    path = write_parquet(tmp_path / "test.parquet", [encode(picture()), None], pa.array([0, 0]))
    outputs = tmp_path / "images.npy", tmp_path / "labels.npy"
    with pytest.raises(BenchmarkError, match=r"test.parquet: row 1 \(1.png\): no bytes, a path alone; store the image"):
        images.decode_split([path], find_task("svhn"), *outputs, None, workers)


def test_images_may_have_another_side(tmp_path: Path):
    image = picture((61, 40))
    path = write_parquet(tmp_path / "test.parquet", [encode(image)], pa.array([0]))
    outputs = tmp_path / "images.npy", tmp_path / "labels.npy"
    images.decode_split([path], find_task("svhn"), *outputs, None, 1, 336)
    assert np.load(outputs[0]).shape == (1, 336, 336, 3)
    assert (np.load(outputs[0])[0] == images.preprocess_image(image, 336)).all()


def test_files_that_are_not_parquet_are_named(tmp_path: Path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    for name in ("cut.parquet", "missing.parquet"):
        with pytest.raises(BenchmarkError, match=rf"{name}: cannot be read as parquet .*; export or fetch it again"):
            images.ParquetSplit([tmp_path / name], find_task("svhn"))


@pytest.mark.parametrize("indices", [[3, 1], [1, 1], [-1, 0], [0, 12], []])
def test_rows_must_be_ascending_and_exist(hub: Path, tmp_path: Path, indices: list[int]):
    task = find_task("mnist")
    with pytest.raises(BenchmarkError, match="mnist: expected ascending rows of 0 to 11, got"):
        images.decode_split(
            files(hub, task, "train"), task, tmp_path / "a.npy", tmp_path / "b.npy", np.array(indices, int), 1
        )
