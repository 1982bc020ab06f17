"""The whole report on a made-up suite: its files, reproducible bytes without traces of the machine, and refusals."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import methods
from pipeline.diagnostics import prediction
from pipeline.merges import answers
from pipeline.report.collect import collect, list_references
from pipeline.report.evidence import choose_methods, load, merge_parameters, merge_records
from pipeline.report.render import report as rendered
from pipeline.report.view import Look
from pipeline.report.views import previews
from pipeline.report.views.coefficients import find_blocks
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.statistics.accuracy import parse_scores
from tests.support.html import Parsed

pytestmark = pytest.mark.long

TASKS = ("b&<i>", "a_1")
GROUPS = ["conv1.weight", "blocks.0.q.weight", "blocks.1.q.weight", "ln_post.weight"]
SEEDS = [0, 1]
METHODS = {
    "merge": ["zeroshot", "individual", "average"],
    "calibrate": ["distillation"],
    "svc": [],
    "rescale": ["average", "distillation"],
    "surgery": ["samerging"],
}
SELECTION = choose_methods(METHODS)
LOOK = Look(dpi=50, width=6.5, decimals=1)
INPUTS = (
    *(f"{name}/mini-x" for name in ("scores", "answers", "costs", "diagnostics", "merges")),
    *("previews/mini-x.npz", "clusters/mini-x.npz", "origins/mini-x.json", "runs"),
)
ORIGIN = {
    "source": "made <here>",
    "embedded": True,
    "fetched": [],
    "overlap": {task: {"train": 0, "validation": 0} for task in TASKS},
    "anchors": {},
    "published": [],
}
FILES = [{"name": f"{index}", "size": 3 * 2**28, "sha256": None, "blob": "0"} for index in range(2)]
MODEL = {"repo": "a/<b>", "kind": "model", "revision": "main", "id": "a/<b>", "commit": "0123456789abcdef" * 2}
ROW = {"method": "M<1>", "hyperparameters": "k 1", "protocol": "data_free", "source": "p<2>", "note": ""}
PUBLIC = {
    "source": "public",
    "embedded": False,
    "fetched": [{**MODEL, "files": FILES}, {**MODEL, "repo": "old", "id": "new/name", "files": FILES[:1]}],
    "overlap": {TASKS[0]: {"train": 1, "validation": 2}, TASKS[1]: {"train": 1200, "validation": 0}},
    "anchors": {task: {"zeroshot": 20.1, "individual": 86.2} for task in TASKS},
    "published": [{**ROW, "task": task, "accuracy": 50 + index} for index, task in enumerate(TASKS)],
}
MEASURES = ("suite", "measure", "layer", "task", "other", "value")
HEADER = ("suite", "method", "task", "seed", "samples", "correct", "total")


def score_rows(method, samples, correct):
    seeds = SEEDS if samples else [None]
    return [("mini-x", method, task, seed, samples, correct + (seed or 0), 50) for seed in seeds for task in TASKS]


@pytest.fixture
def data(tmp_path):
    return write_inputs(tmp_path / "data")


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    """The evidence of an embedded suite, written with its report."""
    folder = tmp_path_factory.mktemp("plain")
    report(write_inputs(folder / "data"), folder / "out")
    return folder / "out/evidence/mini-x"


@pytest.fixture(scope="module")
def plain(plain_folder):
    """The files of the report on an embedded suite."""
    out = plain_folder.parent.parent
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """The files of the report on a public suite."""
    folder = tmp_path_factory.mktemp("public")
    write_public_origin(write_inputs(folder / "data"))
    return report(folder / "data", folder / "out")


def write_inputs(folder):
    """Write all inputs of the report below `folder`."""
    for correct, name in zip((10, 40, 20, 25, 30, 35), SELECTION.names, strict=True):
        learned, operated = name in SELECTION.calibrated, name.startswith("surgery-")
        write_scores(folder, name, score_rows(name, 6 * (learned or operated), correct))
        metadata = {"form": "coefficients", "extras": "adapters" if operated else None, "losses": learned}
        metadata |= {"tasks": TASKS, "groups": GROUPS, "seeds": SEEDS}
        store.write_json(folder / f"merges/mini-x/{name}/merge.json", metadata)
        sizes = {"encoders": 2 if name == "individual" else 1, "encoder_bytes": 1000, "extra_bytes": 250 * operated}
        flops = {"plain_flops": 100, "flops": dict.fromkeys(TASKS, 100 + 50 * operated)}
        store.write_json(folder / f"costs/mini-x/{name}.json", sizes | flops)
        if operated:
            write_record(folder, "surgery", name.removeprefix("surgery-"))
            continue
        if not learned:
            write_record(folder, "merge", name)
            continue
        write_record(
            folder, *{"samerging": ("samerging",)}.get(name, ("calibrate", name)), samples_per_task=6, seeds=SEEDS
        )
        losses = [(seed, step, 1 / (step + 1)) for seed in SEEDS for step in range(150)]
        store.write_csv(folder / f"merges/mini-x/{name}/losses.csv", ("seed", "step", "loss"), losses)
    for name, examples, correct in (("average", 3, 22), ("distillation", 6, 27)):
        write_scores(folder, f"{name}-rescaled", score_rows(f"{name}-rescaled", examples, correct))
        write_record(folder, "rescale", name)
    learned = {"coefficients": torch.arange(16.0).reshape(2, 1, 2, 4)}
    store.write_tensors(folder / "merges/mini-x/samerging/coefficients.safetensors", learned)
    examples = {task: np.full((3, 4, 4, 3), 90 * index, np.uint8) for index, task in enumerate(TASKS)}
    store.write_arrays(folder / "previews/mini-x.npz", examples)
    store.write_arrays(folder / "clusters/mini-x.npz", {f"test/{TASKS[0]}": np.arange(100).reshape(50, 2) // [100, 10]})
    store.write_json(folder / "origins/mini-x.json", ORIGIN)
    layers = [
        ("mlp.0.c_fc", name, task, "", value)
        for name, value in (("mloss", 3), ("mloss_normalised", 0.25))
        for task in TASKS
    ]
    cosines = [("", "cosine", task, other, 0.5) for task in TASKS for other in TASKS if task != other]
    transfers = [("", "transfer", task, other, 90 if task == other else 10) for task in TASKS for other in TASKS]
    measures = [("mini-x", name, layer, *rest) for layer, name, *rest in (*layers, *cosines, *transfers)]
    store.write_csv(folder / "diagnostics/mini-x/measures.csv", MEASURES, measures)
    correlations = [
        ("mini-x", "tasks", measure, "average", 2, 0.5, 0.25, 0.75, 0.125, 0.875) for measure in ("mloss", "sar")
    ]
    store.write_csv(
        folder / "diagnostics/mini-x/prediction.csv", ("suite", *prediction.CORRELATION_COLUMNS), correlations
    )
    for stage in ("train", "prepare", "teach", "diagnose"):
        write_record(folder, stage, calibration_split="train")
    return folder


def write_scores(folder, name, counts):
    store.write_csv(folder / f"scores/mini-x/{name}.csv", HEADER, counts)
    labels = dict.fromkeys(TASKS, np.zeros(50, np.int16))
    predictions = {
        task: np.array([np.arange(50) >= row[5] for row in counts if row[2] == task], np.int16) for task in TASKS
    }
    answers.save_answers(answers.Answers(predictions, labels), folder / f"answers/mini-x/{name}.npz")
    write_record(folder, "evaluate", name, evaluation_split="test")


def write_record(folder, stage, method=None, **params):
    arguments = {"suite": "mini-x"} | ({"on" if stage == "surgery" else "method": method} if method else {})
    machine = {"seconds": 1.5, "peak_mib": 2048, "device": "cpu", "processor": "P<1>", "cores": 2, "system": "Linux"}
    versions = {"python": "3.11.0", "packages": {"torch": "2.0"}}
    content = {"stage": stage, "arguments": arguments, "params": params, **machine, **versions}
    store.write_json(folder / "runs" / f"{'-'.join((stage, *arguments.values()))}.json", content)


def report(data, out, selection=SELECTION):
    """Write the report and its evidence below `out` and return all files."""
    folder = out / "evidence" / "mini-x"
    collect([data / name for name in INPUTS], "mini-x", selection, folder)
    for name, content in rendered([folder], LOOK).items():
        store.write_bytes(out / name, content)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_whole_report_is_written_with_the_same_bytes_twice(data, tmp_path, monkeypatch):
    monkeypatch.setattr(methods.load("average"), "TITLE", "<script>A_v & e</script>")
    files = report(data, tmp_path / "one")
    assert files == report(data, tmp_path / "two"), "the same bytes every time"
    names = ("accuracy", "profiles", "coefficients", "losses", "mloss", "cosines", "transfer", "images")
    expected = {f"figures/mini-x-{name}.{kind}" for name in names for kind in ("svg", "pdf", "png")}
    expected |= {f"figures/mini-x-{name}.csv" for name in names if name != "images"}
    expected |= {"metrics.json", "index.html", "tables/mini-x-sentences.md"}
    stems = ("mini-x", "mini-x-overview", "mini-x-comparisons", "mini-x-prediction")
    expected |= {f"tables/{stem}.{kind}" for stem in stems for kind in ("csv", "md", "tex")}
    expected -= {"tables/mini-x-overview.csv"}
    expected |= {f"plots/{name}.csv" for name in ("accuracy", "losses")}
    evidence = {name for name in files if name.startswith("evidence/")}
    assert set(files) - evidence == expected
    assert {Path(name).name for name in evidence} == {
        *("scores.csv", "answers.npz", "methods.json", "measures.csv", "prediction.csv", "measures.json"),
        *("losses.csv", "coefficients.csv", "previews.npz", "clusters.npz", "records.json"),
    }
    metrics = json.loads(files["metrics.json"])["mini-x"]
    assert [*metrics] == ["samerging", "gap_closed", "minus_distillation", "best_data_free", "experts"]
    assert [*metrics.values()] == [61.0, 68.33, 10.0, 40.0, 80.0]
    assert files["plots/losses.csv"].count(b"\n") == 1 + 2 * 2 * 75
    assert files["plots/accuracy.csv"].splitlines()[1] == b"mini-x,average,b&<i>,,40"
    assert rb"\textless{}script\textgreater{}A\_v \& e" in files["tables/mini-x.tex"]

    html = files["index.html"].decode()
    assert html.count("<script") == 1
    assert "&lt;script&gt;A_v &amp; e" in html
    assert '<th scope="col">b&amp;&lt;i&gt;</th>' in html
    assert '<th scope="row">evaluate average</th><td>1.5</td><td>2,048</td>' in html
    assert '<td class="words">cpu; 2 cores of P&lt;1&gt;</td>' in html
    assert "<u>61.0</u> <small>±&nbsp;1.4</small>" in html
    for content in files.values():
        assert str(tmp_path).encode() not in content
        assert not re.search(rb"<dc:date|CreationDate|tIME", content)


def test_every_link_of_the_page_has_a_target(beside):
    page = Parsed(beside["index.html"].decode())
    assert len(page.ids) == len(set(page.ids)), "ids differ between figures"
    anchors = {link[1:] for link in page.links if link.startswith("#")}
    papers = {link for link in page.links if link.startswith("https://")}
    linked = set(page.links) - {f"#{name}" for name in anchors} - papers
    assert anchors <= set(page.ids)
    assert {f"method-{name}" for name in SELECTION.names} <= anchors
    assert all(re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", link) for link in papers)
    assert linked - {"README.md", "studies/mini-x/index.html"} <= beside.keys()
    assert {name for name in beside if name.startswith("figures/")} <= linked
    assert all(link.startswith(("#", "data:")) for link in page.loads), "no request to anywhere"
    assert {link[1:] for link in page.loads if link.startswith("#")} <= set(page.ids)


def test_run_records_are_folded_and_warnings_are_not(beside):
    html = beside["index.html"].decode()
    folded = html[html.index('<details class="fold"') : html.rindex("</details>")]
    for text in (
        ">evaluate average</th>",
        ">surgery samerging</th>",
        ">evaluation_split</th>",
        ">torch</th>",
        "<p>public</p>",
    ):
        assert html.count(text) == folded.count(text) == 1
    assert html.count("<p>Warning: 1 calibration-pool example ") == 1
    assert "Warning" not in folded


def test_data_files_hold_the_values_of_the_figures(plain):
    def csv_lines(name):
        return plain[f"figures/mini-x-{name}.csv"].decode().splitlines()

    assert csv_lines("accuracy")[:2] == ["method,task,accuracy", "average,b&<i>,40"]
    assert len(csv_lines("accuracy")) == 1 + len(SELECTION.names) * len(TASKS)
    assert csv_lines("coefficients")[0] == "task,tensor,coefficient"
    # Mean over two seeds of arange(16) as [seed, task, tensor].
    assert [line.rsplit(",", 1)[1] for line in csv_lines("coefficients")[1:]] == [str(4 + index) for index in range(8)]
    assert csv_lines("losses")[:3] == [
        "method,step,mean,low,high",
        "distillation,0,1,1,1",
        "distillation,1,0.5,0.5,0.5",
    ]
    assert csv_lines("mloss") == ["task,block,mloss,normalised", "a_1,0,3,0.25", "b&<i>,0,3,0.25"]
    assert csv_lines("transfer")[:3] == ["task,other,value", "b&<i>,b&<i>,90", "b&<i>,a_1,10"]
    assert csv_lines("cosines") == ["task,other,value", "b&<i>,a_1,0.5", "a_1,b&<i>,0.5"]


@pytest.mark.parametrize(
    "name",
    [
        "scores/mini-x/average.csv",
        "merges/mini-x/samerging/merge.json",
        "merges/mini-x/samerging/coefficients.safetensors",
        "merges/mini-x/distillation/losses.csv",
        "previews/mini-x.npz",
        "clusters/mini-x.npz",
        "origins/mini-x.json",
        "runs/evaluate-mini-x-samerging.json",
        "runs/surgery-mini-x-samerging.json",
        "scores/mini-x/average-rescaled.csv",
        "answers/mini-x/average.npz",
        "answers/mini-x/average-rescaled.npz",
        "costs/mini-x/individual.json",
        "diagnostics/mini-x/measures.csv",
        "diagnostics/mini-x/prediction.csv",
    ],
)
def test_a_missing_file_is_refused_by_name(data, tmp_path, name):
    (data / name).unlink()
    with pytest.raises(BenchmarkError, match=re.escape(name)):
        report(data, tmp_path / "out")


def drop_last_line(text):
    return text.rpartition("\n")[0].rpartition("\n")[0] + "\n"


@pytest.mark.parametrize("name", ["merges/mini-x/samerging/losses.csv", "diagnostics/mini-x/measures.csv"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: "", "cannot be read"),
        (lambda text: text[len(text) // 2 :], "no column measure, suite|no column loss"),
        (lambda text: text[:-2], "ends in the middle of a line"),
    ],
)
def test_a_damaged_table_is_refused_by_name(data, tmp_path, name, damage, message):
    path = data / name
    path.write_text(damage(path.read_text()))
    with pytest.raises(BenchmarkError, match=rf"{re.escape(str(path))}: ({message}).*; run dvc repro"):
        report(data, tmp_path / "out")


def test_losses_that_lack_a_step_are_refused(data, tmp_path):
    path = data / "merges/mini-x/samerging/losses.csv"
    path.write_text(drop_last_line(path.read_text()))
    with pytest.raises(BenchmarkError, match=r"losses\.csv: steps of samerging are missing, expected a loss per"):
        report(data, tmp_path / "out")


def test_a_method_with_seeds_of_its_own_shows_its_losses_by_them(data, tmp_path):
    path = data / "merges/mini-x/distillation/losses.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        lines[0] + "".join(f"{seed},{line.partition(',')[2]}" for seed in (7, 8, 9) for line in lines[1:76])
    )
    files = report(data, tmp_path / "out")
    rows = [line.split(",") for line in files["plots/losses.csv"].decode().splitlines()]
    assert {seed for _, method, seed, *_ in rows if method == "distillation"} == {"7", "8", "9"}
    assert "mean and range over 2 seeds or 3 seeds" in files["index.html"].decode()


def write_public_origin(data, **changes):
    store.write_json(data / "origins/mini-x.json", PUBLIC | changes)


def set_evaluation_split(data, split):
    for path in (data / "runs").glob("*.json"):
        content = store.read_json(path)
        if "evaluation_split" in content["params"]:
            store.write_json(path, {**content, "params": {"evaluation_split": split}})


def test_an_embedded_suite_shows_its_origin_and_no_published_results(plain):
    html = plain["index.html"].decode()
    assert "(embedded: made from installed packages" in html
    assert "<p>made &lt;here&gt;</p>" in html
    assert '<th scope="row">b&amp;&lt;i&gt;</th><td>0</td><td>0</td>' in html
    texts = Parsed(html).texts
    assert texts["h3"]
    visible = " ".join(text for tag in ("h3", "figcaption", "p", "li", "a") for text in texts[tag])
    assert not re.search("Fetched|Warning|Anchor|Published", visible)


def test_a_public_suite_is_compared_with_published_results(plain, beside):
    new = {f"tables/mini-x-{name}.{kind}" for name in ("anchors", "published") for kind in ("csv", "md", "tex")}
    assert beside.keys() - plain.keys() == new
    captioned = {"index.html", "evidence/mini-x/records.json", "tables/mini-x.md", "tables/mini-x.tex"}
    assert {name for name in plain if plain[name] != beside[name]} == captioned
    claim = (
        "Anchors: 2 of 4 published accuracies of these checkpoints reproduced within 0.1 points or 3 examples; "
        "NOT reproduced: b&<i> expert (−6.200), a_1 expert (−6.200)."
    )
    table = beside["tables/mini-x.md"].decode()
    assert "embedded" not in table
    assert table.endswith(claim.replace("_", r"\_").replace("<", r"\<").replace(">", r"\>") + "\n")
    published = beside["tables/mini-x-published.csv"].decode().splitlines()
    assert [line.split(",")[0] for line in published[1:]] == [
        *("Zero-shot", "Individual experts", "Simple average", "Distillation", "SAMerging"),
        *("Surgery on SAMerging", "M<1>"),
    ]
    assert published[5].endswith(',"training examples without labels, 6 per task; mean over 2 seeds",this run,')
    assert published[7] == "M<1>,k 1,50.000000,51.000000,50.500000,data_free,p<2>,"
    html = beside["index.html"].decode()
    assert html.count("NOT reproduced: b&amp;&lt;i&gt; expert (−6.200)") == 2
    assert '>a/&lt;b&gt;</th><td class="words">0123456789ab</td><td>2</td><td>1.50</td>' in html
    assert '>old (now new/name)</th><td class="words">0123456789ab</td><td>1</td><td>0.75</td>' in html
    assert "1 calibration-pool example of task b&amp;&lt;i&gt; also occurs in its test split." in html
    assert "1,200 calibration-pool examples of task a_1 also occur in its test split." in html
    assert '<td class="words">data_free</td><td class="words">k 1</td><td class="words">p&lt;2&gt;</td>' in html
    assert "published results on the same checkpoints; protocols differ: see the column" in html


def test_overlap_outside_the_calibration_split_gives_no_warning(data, tmp_path):
    write_public_origin(data, overlap={task: {"train": 0, "validation": 9} for task in TASKS})
    html = report(data, tmp_path / "out")["index.html"]
    assert b">a_1</th><td>0</td><td>9</td>" in html
    assert b"Warning" not in html


def test_anchors_are_not_compared_on_another_split(data, tmp_path):
    write_public_origin(data)
    set_evaluation_split(data, "validation")
    files = report(data, tmp_path / "out")
    assert not [name for name in files if "anchors" in name]
    assert b"<h3>Anchors" not in files["index.html"]
    assert b"Anchors: not compared; they are accuracies on the test split" in files["tables/mini-x.md"]
    assert b',"this run, validation split",' in files["tables/mini-x-published.csv"]
    assert b"are of the test split, this run scored the validation split" in files["tables/mini-x-published.md"]


def test_an_incomplete_origin_is_refused_by_name(data, tmp_path):
    store.write_json(data / "origins/mini-x.json", {"source": "", "embedded": True, "overlap": {}, "fetched": []})
    with pytest.raises(BenchmarkError, match=r"mini-x\.json: no anchors, published; prepare the suite again"):
        report(data, tmp_path / "out")


def test_stale_files_of_other_methods_are_ignored(data, tmp_path):
    store.write_text(data / "scores/mini-x/ties.csv", "stale")
    store.write_text(data / "scores/nano-3/ties.csv", "stale")
    assert b"ties" not in report(data, tmp_path / "out")["tables/mini-x.csv"]


def test_stages_that_ran_with_different_parameters_are_refused():
    with pytest.raises(BenchmarkError, match=r"seeds = \[0\] and \[1\]; run dvc repro"):
        merge_parameters("s", [{"params": {"seeds": [0]}}, {"params": {"seeds": [1]}}])


def test_texts_are_quoted_in_a_table_instead_of_a_figure(plain_folder):
    texts = {task: np.array([f"{task} says little", "word " * 40]) for task in TASKS}
    shown = previews.view(replace(load(plain_folder), previews=texts), LOOK)
    assert not shown.figures
    ((_, rows),) = shown.tables["texts"].table.sections
    assert [task for task, _ in rows] == [task for task in TASKS for _ in range(2)]
    quoted = [cells[0].mean for _, cells in rows]
    assert quoted[::2] == [f"{task} says little" for task in TASKS]
    assert all(text.endswith("word ...") and 90 < len(text) <= 100 for text in quoted[1::2])


def test_blocks_of_the_encoder():
    assert find_blocks(GROUPS) == [("in", 0, 1), ("0", 1, 2), ("1", 2, 3), ("out", 3, 4)]


@pytest.mark.parametrize("path", sorted(Path("reports/templates").glob("*.json")), ids=lambda path: path.stem)
def test_plot_templates_are_json_that_dvc_can_fill(path):
    assert store.read_json(path)["data"]["values"] == "<DVC_METRIC_DATA>"


def test_the_overview_shows_costs_examples_and_scales(plain):
    table = plain["tables/mini-x-overview.md"].decode()
    lines = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in map(split_cells, table.splitlines())}
    columns = lines["Method"]
    rows_of = {
        name: dict(zip(columns, cells, strict=True)) for name, cells in lines.items() if len(cells) == len(columns)
    }
    assert rows_of["Simple average"]["Scale from KL"] == "45.0 ± 1.4"
    assert rows_of["Distillation"]["Scale from KL"] == "55.0 ± 1.4"
    assert rows_of["SAMerging"]["Scale from KL"] == "–"
    assert rows_of["Simple average"]["Examples"] == "0"
    assert rows_of["SAMerging"]["Examples"] == "6"
    extra = {name: (row["Extra, %"], row["FLOPs, ×"]) for name, row in rows_of.items()}
    assert extra["SAMerging"] == ("0.0", "1.00")
    assert extra["Individual experts"] == ("100.0", "1.00")
    assert extra["Surgery on SAMerging"] == ("25.0", "1.50")
    assert "Seconds" not in columns
    assert list(lines).index("*More than one model at inference*") == list(lines).index("Surgery on SAMerging") - 1


def split_cells(line):
    return line.split("|") if line.startswith("|") else ["", "", ""]


def test_the_evidence_keeps_all_scores_and_answers(data, tmp_path):
    report(data, tmp_path)
    folder = tmp_path / "evidence/mini-x"
    scores = parse_scores((folder / "scores.csv").read_text(), "scores")
    order = ["zeroshot", "individual", "average", "distillation", "samerging", "surgery-samerging"]
    order += ["average-rescaled", "distillation-rescaled"]
    assert scores.method.unique().tolist() == order
    bits = store.read_arrays(folder / "answers.npz")
    assert list(bits) == [f"{method}/{task}" for method in order for task in TASKS]
    for (method, task), group in scores.groupby(["method", "task"]):
        right = np.unpackbits(bits[f"{method}/{task}"], axis=1, count=50)
        assert right.sum(axis=1).tolist() == group.correct.tolist()
        assert right[0].tolist() == [1] * group.correct.iloc[0] + [0] * (50 - group.correct.iloc[0])


def test_answers_that_contradict_the_counts_are_refused(data, tmp_path):
    answers.save_answers(make_answers(right=19), data / "answers/mini-x/average.npz")
    with pytest.raises(BenchmarkError, match=r"answers\.npz: right answers of average/.* are not those counted"):
        report(data, tmp_path)


def test_answers_to_other_examples_are_refused(data, tmp_path):
    answers.save_answers(make_answers(right=20, label=1), data / "answers/mini-x/average.npz")
    with pytest.raises(BenchmarkError, match=r"average\.npz: methods were asked about different examples"):
        report(data, tmp_path)


def make_answers(right, label=0):
    """Make answers of one run, the first `right` of them correct."""
    predicted = np.where(np.arange(50) < right, label, label + 1).astype(np.int16)[None]
    return answers.Answers(dict.fromkeys(TASKS, predicted), dict.fromkeys(TASKS, np.full(50, label, np.int16)))


def test_without_experts_nothing_is_normalised(data, tmp_path):
    selection = choose_methods({**METHODS, "merge": ["zeroshot", "average"]})
    report(data, tmp_path, selection)
    assert not (tmp_path / "figures/mini-x-profiles.svg").exists()
    assert "iqm" not in (tmp_path / "tables/mini-x-comparisons.csv").read_text()


EVIDENCE = (
    *("scores.csv", "answers.npz", "methods.json", "measures.csv", "losses.csv", "previews.npz", "clusters.npz"),
    "records.json",
)


@pytest.mark.parametrize("name", EVIDENCE)
@pytest.mark.parametrize("damage", [lambda _: None, lambda _: b"", lambda content: content[: len(content) // 2]])
def test_missing_or_truncated_evidence_is_refused_by_name(plain_folder, tmp_path, name, damage):
    folder = shutil.copytree(plain_folder, tmp_path / "mini-x")
    content = damage((folder / name).read_bytes())
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(BenchmarkError, match=re.escape(name)):
        load(folder)


def test_rendering_needs_no_torch():
    script = "import sys; from pipeline.report import render, views; views.load_views(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_svc_has_a_row_below_the_data_free_methods():
    chosen = choose_methods({**METHODS, "merge": ["zeroshot", "nan", "ties"], "svc": ["nan", "ties"]})
    assert chosen.names[:5] == ("zeroshot", "nan", "ties", "nan-svc", "ties-svc")
    assert chosen.sections(())["Data-free"] == ["nan", "ties", "nan-svc", "ties-svc"]
    references = list_references(chosen)
    assert [references[name].title for name in ("nan-svc", "ties-svc")] == ["NAN + SVC †", "TIES + SVC"]
    assert references["nan-svc"].unverified == references["nan"].unverified
    assert ("ties-svc", "svc-mini-x-ties") in merge_records("mini-x", chosen)
