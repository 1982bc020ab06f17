"""The whole report on a made-up suite: every file, the same bytes twice, nothing of the machine, clear refusals."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import methods, store
from pipeline.errors import BenchmarkError
from pipeline.figures import blocks
from pipeline.report import write
from pipeline.results import choose, parameters

TASKS = ("b&<i>", "a_1")
GROUPS = ["conv1.weight", "blocks.0.q.weight", "blocks.1.q.weight", "ln_post.weight"]
SEEDS = [0, 1]
CHOSEN = choose(["zeroshot", "individual", "average"], ["distillation"])
LOOK = SimpleNamespace(dpi=50, width=6.5, decimals=1)
INPUTS = ("scores", "studies", "merges", "previews", "runs")
OUTPUTS = ("tables", "figures", "plots", "metrics.json", "index.html")
HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")


def rows(method, samples, correct):
    seeds = SEEDS if samples else [None]
    return [("mini-x", method, task, seed, samples, correct + (seed or 0), 50) for seed in seeds for task in TASKS]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    for correct, name in zip((10, 40, 20, 25, 30), CHOSEN.names, strict=True):
        learned = name in CHOSEN.calibrated
        store.write_csv(folder / f"scores/mini-x/{name}.csv", HEADER, rows(name, 6 * learned, correct))
        record(folder, "evaluate", name, evaluation_split="test")
        if not learned:
            record(folder, "merge", name)
            continue
        study = [(k, *row) for k in (1, 6) for row in rows(name, k, correct)]
        store.write_csv(folder / f"studies/mini-x/{name}/scores.csv", ("k", *HEADER), study)
        record(folder, *{"samerging": ("study_samerging",)}.get(name, ("study", name)), evaluation_split="test")
        record(folder, *{"samerging": ("samerging",)}.get(name, ("calibrate", name)), samples_per_task=6, seeds=SEEDS)
        losses = [(seed, step, 1 / (step + 1)) for seed in SEEDS for step in range(150)]
        store.write_csv(folder / f"merges/mini-x/{name}/losses.csv", ("seed", "step", "loss"), losses)
    merged = folder / "merges/mini-x/samerging"
    store.write_json(merged / "merge.json", {"form": "coefficients", "tasks": TASKS, "groups": GROUPS})
    store.write_tensors(merged / "coefficients.safetensors", {"coefficients": torch.arange(16.0).reshape(2, 1, 2, 4)})
    images = {task: np.full((3, 4, 4, 3), 90 * index, np.uint8) for index, task in enumerate(TASKS)}
    store.write_arrays(folder / "previews/mini-x.npz", images)
    for stage in ("prepare", "teach"):
        record(folder, stage, calibration_split="train")
    return folder


def record(folder, stage, method=None, **params):
    arguments = {"suite": "mini-x"} | ({"method": method} if method else {})
    machine = {"seconds": 1.5, "peak_mib": 2048, "device": "cpu", "processor": "P<1>", "cores": 2, "system": "Linux"}
    versions = {"python": "3.11.0", "packages": {"torch": "2.0"}}
    content = {"stage": stage, "arguments": arguments, "params": params, **machine, **versions}
    store.write_json(folder / "runs" / f"{'-'.join((stage, *arguments.values()))}.json", content)


def report(data, out):
    write([data / name for name in INPUTS], ["mini-x"], CHOSEN, LOOK, [out / name for name in OUTPUTS])
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


class Ids(HTMLParser):
    """All ids of a page, and the first letters of what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = [], []
        self.feed(text)

    def handle_starttag(self, _, attrs):
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]


def test_the_whole_report_twice(data, tmp_path, monkeypatch):
    monkeypatch.setattr(methods.load("average"), "TITLE", "<script>A_v & e</script>")
    files = report(data, tmp_path / "one")
    assert files == report(data, tmp_path / "two"), "the same bytes every time"
    names = ("accuracy", "efficiency", "coefficients", "losses", "images")
    expected = {f"figures/mini-x-{name}.{kind}" for name in names for kind in ("svg", "pdf", "png")}
    expected |= {"metrics.json", "index.html", "tables/mini-x-efficiency.csv"}
    expected |= {f"tables/mini-x.{kind}" for kind in ("csv", "md", "tex")}
    assert set(files) == expected | {f"plots/{name}.csv" for name in ("accuracy", "efficiency", "losses")}
    assert json.loads(files["metrics.json"])["mini-x"] == {
        "accuracy": {"average": 40.0, "distillation": 51.0, "individual": 80.0, "samerging": 61.0, "zeroshot": 20.0},
        "samerging_gap_closed": 68.33,
    }
    assert files["plots/losses.csv"].count(b"\n") == 1 + 2 * 2 * 75
    assert files["plots/accuracy.csv"].splitlines()[1] == b"mini-x,average,b&<i>,,40"
    assert rb"\textless{}script\textgreater{}A\_v \& e" in files["tables/mini-x.tex"]

    html = files["index.html"].decode()
    found = Ids(html)
    assert len(found.ids) == len(set(found.ids)), "ids differ between figures"
    assert all(link.startswith(("#", "data:")) for link in found.links), "no request to anywhere"
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert "<script" not in html
    assert "&lt;script&gt;A_v &amp; e" in html
    assert '<th scope="col">b&amp;&lt;i&gt;</th>' in html
    assert "<td>evaluate average</td><td>1.5</td><td>2,048</td><td>cpu; 2 cores of P&lt;1&gt;</td>" in html
    assert "<b>61.0</b> <small>± 1.4</small>" in html
    for content in files.values():
        assert str(tmp_path).encode() not in content
        assert not re.search(rb"<dc:date|CreationDate|tIME", content)


@pytest.mark.parametrize(
    "name",
    [
        "scores/mini-x/average.csv",
        "studies/mini-x/distillation/scores.csv",
        "merges/mini-x/samerging/merge.json",
        "merges/mini-x/samerging/coefficients.safetensors",
        "merges/mini-x/distillation/losses.csv",
        "previews/mini-x.npz",
        "runs/evaluate-mini-x-samerging.json",
    ],
)
def test_a_missing_file_is_named(data, tmp_path, name):
    (data / name).unlink()
    with pytest.raises(BenchmarkError, match=re.escape(name)):
        report(data, tmp_path / "out")


def test_what_is_left_of_other_methods_is_ignored(data, tmp_path):
    store.write_text(data / "scores/mini-x/ties.csv", "stale")
    store.write_text(data / "scores/nano-3/ties.csv", "stale")
    assert "ties" not in json.loads(report(data, tmp_path / "out")["metrics.json"])["mini-x"]["accuracy"]


def test_stages_that_ran_with_different_parameters_are_refused():
    with pytest.raises(BenchmarkError, match=r"seeds = \[0\] and \[1\]; run dvc repro"):
        parameters("s", [{"params": {"seeds": [0]}}, {"params": {"seeds": [1]}}])


def test_blocks_of_the_image_tower():
    assert blocks(GROUPS) == [("in", 0, 1), ("0", 1, 2), ("1", 2, 3), ("out", 3, 4)]


@pytest.mark.parametrize("path", sorted(Path("reports/templates").glob("*.json")), ids=lambda path: path.stem)
def test_plot_templates_are_json_that_dvc_can_fill(path):
    assert store.read_json(path)["data"]["values"] == "<DVC_METRIC_DATA>"
