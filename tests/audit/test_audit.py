"""The audit: a true run holds, with and without data/; every planted fraud fails on the line that says why."""

import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides

from pipeline.audit import arithmetic, draws, images, lock, rendered, rerun
from pipeline.audit.__main__ import audit, main
from pipeline.audit.finding import Finding
from pipeline.audit.repository import RepositoryError, gather, hash_directory, stamp_bytes
from pipeline.audit.suite import AuditedSuite
from pipeline.models.sampling import sample_indices
from pipeline.runtime import store
from pipeline.statistics.accuracy import tabulate_runs
from tests.support import small_run

SUITE = "nano-3"
EVIDENCE = "reports/evidence/suites"
SCORES = f"{EVIDENCE}/{SUITE}/scores.csv"
TASK = "textures"


pytestmark = pytest.mark.usefixtures("rendered_once")


@pytest.fixture
def repository(small: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return small_run.copy(small, tmp_path / "repository")


def findings(root: Path) -> dict[str, Finding]:
    return {one.name: one for one in audit(gather(root))}


def test_a_finished_run_is_true(small: Path):
    found = findings(small)
    assert not [one.line() for one in found.values() if one.wrong]
    nothing = {name for name, one in found.items() if one.verdict == "none"}
    assert nothing <= {f"{SUITE}: {name}" for name in ("anchors", "answers", "comparisons", "studies")}
    assert found["lock: stages"].compared == len(gather(small).yaml("dvc.lock")["stages"])
    assert found["lock: data"].absent == []


def test_a_clone_without_data_is_audited_as_far_as_it_goes(repository: Path):
    whole = findings(repository)
    kept = repository / f"data/runs/train-{SUITE}.json"  # Git has it, of the folder data/runs that a stage reads
    record = kept.read_bytes()
    shutil.rmtree(repository / "data")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(record)
    shutil.rmtree(repository / ".dvc")
    found = findings(repository)
    assert not [one.line() for one in found.values() if one.wrong]
    for name in ("scores", "table", "comparisons", "seeds"):
        assert found[f"{SUITE}: {name}"] == whole[f"{SUITE}: {name}"]
    assert found["environment"] == whole["environment"]
    assert found["lock: evidence"].compared > 20
    assert (found["lock: data"].compared, found["lock: data"].verdict) == (1, "ok")
    assert "not checked: " in found["lock: data"].line()
    assert found[f"{SUITE}: draws"].absent == ["merge artefacts"]


def lock_findings(root: Path) -> dict[str, Finding]:
    return {one.name: one for one in lock.check(gather(root))}


def replaced(root: Path, path: str, pattern: str, new: str | Callable[[re.Match], str]) -> None:
    """Replace the first match of `pattern` in a text file."""
    text = (root / path).read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text, f"{path} has no {pattern}"
    (root / path).write_text(changed)


def rehashed(root: Path) -> None:
    """What a careful fraud does next: dvc.lock gets the hashes of what lies there now."""
    evidence, text = gather(root), (root / "dvc.lock").read_text()
    for _, entry in lock.entries(evidence.yaml("dvc.lock")["stages"]):
        path, old = entry["path"], entry["md5"]
        new = evidence.stamps[path].md5 if path in evidence.stamps else hash_directory(evidence.members(path))
        text = text.replace(old, new)
    (root / "dvc.lock").write_text(text)
    shutil.rmtree(root / ".dvc")


def one_more(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


def score(root: Path) -> None:
    replaced(root, f"data/scores/{SUITE}/ties.csv", r"(ties,textures,,0,)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}")


def published_score(root: Path) -> None:
    replaced(root, SCORES, r"(,ties,textures,,0,)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}")


def careful_score(root: Path) -> None:
    score(root)
    published_score(root)
    rehashed(root)


def careful_cell(kind: str, pattern: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        replaced(root, f"reports/{kind}", pattern, one_more)
        rehashed(root)

    return change


def expert(root: Path) -> None:
    folder = root / f"data/suites/{SUITE}/experts"
    shutil.copy(folder / "signs.safetensors", folder / "textures.safetensors")


def code(root: Path) -> None:
    with (root / "pipeline/methods/ties.py").open("a") as file:
        file.write("\n")


def leak(root: Path) -> None:
    """A test image among the calibration images; the hashes are put right."""
    train, test = (root / f"data/suites/{SUITE}/images/{split}/{TASK}.npy" for split in ("train", "test"))
    pool = np.load(train)
    pool[3] = np.load(test)[5]
    np.save(train, pool)
    rehashed(root)


def seed(root: Path) -> None:
    replaced(root, "params.yaml", r"seeds:\n- 0\n- 1\n", "seeds:\n- 0\n- 7\n")


def careful_seed(root: Path) -> None:
    """Another seed is claimed wherever it is written down; what was drawn stays."""
    seed(root)
    for path in (*sorted((root / "data").rglob("*.csv")), root / SCORES):
        path.write_text(re.sub(r"^((?:\d+,)?nano-3,[^,]+,[^,]+),1,", r"\1,7,", path.read_text(), flags=re.MULTILINE))
    for path in sorted((root / "data/merges").rglob("merge.json")):
        content = store.read_json(path)
        store.write_json(path, {**content, "seeds": [7 if one == 1 else one for one in content["seeds"]]})
    rehashed(root)


def more_images(root: Path) -> None:
    for path in (root / f"data/scores/{SUITE}/samerging.csv", root / SCORES):
        path.write_text(re.sub(r"(,samerging,\w+,\d,)8,", r"\g<1>9,", path.read_text()))
    rehashed(root)


def figure(root: Path) -> None:
    folder = root / "reports/figures"
    shutil.copy(folder / f"{SUITE}-losses.png", folder / f"{SUITE}-accuracy.png")


def version(root: Path) -> None:
    path = root / "data/runs" / f"teach-{SUITE}.json"
    content = store.read_json(path)
    content["packages"]["torch"] = "1.0.0"
    store.write_json(path, content)


def without_driver(root: Path) -> None:
    path = root / "data/runs" / f"teach-{SUITE}.json"
    store.write_json(path, store.read_json(path) | {"device": "NVIDIA H100", "cuda": "13.0"})


def overview_number(root: Path) -> None:
    replaced(root, "docs/results.md", r"(\| TIES \|[^|]*\d\.)(\d)", one_more)


def headline_number(root: Path) -> None:
    replaced(root, "README.md", r"(\| Distillation \|[^|]*\d\.)(\d)", one_more)


def headline_row(root: Path) -> None:
    replaced(root, "README.md", r"\| Distillation \|.*\n", "")


def no_block(root: Path) -> None:
    replaced(root, "docs/results.md", "<!-- /results -->\n", "")


def without_row(path: str, pattern: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        replaced(root, path, pattern, "")
        rehashed(root)

    return change


def title(root: Path) -> None:
    replaced(root, f"reports/tables/{SUITE}.csv", "ties,TIES,", "ties,Best of all,")
    rehashed(root)


def elsewhere(root: Path) -> None:
    replaced(root, f"reports/tables/{SUITE}.csv", "ties,TIES,Data-free,", "ties,TIES,Calibrated,")
    rehashed(root)


def undeclared_code(root: Path) -> None:
    for path in ("dvc.yaml", "dvc.lock"):
        text = re.sub(r"( *)- (path: )?pipeline/steps/evaluate\.py\n(\1  [^-].*\n)*", "", (root / path).read_text())
        (root / path).write_text(text)
    with (root / "pipeline/steps/evaluate.py").open("a") as file:
        file.write("\n")


def other_answers(root: Path) -> None:
    """As many right answers, to other images."""
    path = root / f"{EVIDENCE}/{SUITE}/answers.npz"
    packed = dict(np.load(path))
    bits = np.unpackbits(packed["ties/textures"], axis=1)[:, : np.load(answers_of(root))["labels/textures"].size]
    right, wrong = (np.flatnonzero(bits[0] == value)[0] for value in (1, 0))
    bits[0, [right, wrong]] = (0, 1)
    store.write_arrays(path, packed | {"ties/textures": np.packbits(bits, axis=1)})
    rehashed(root)


def answers_of(root: Path) -> Path:
    return root / f"data/answers/{SUITE}/ties.npz"


def coefficient(root: Path) -> None:
    replaced(root, f"{EVIDENCE}/{SUITE}/coefficients.csv", r"(0,optdigits,conv1\.weight,-?\d\.)(\d)", one_more)


def loss(root: Path) -> None:
    replaced(root, f"{EVIDENCE}/{SUITE}/losses.csv", r"(distillation,0,1,\d\.)(\d)", one_more)


def measure(root: Path) -> None:
    replaced(root, f"{EVIDENCE}/{SUITE}/measures.csv", r"(cosine,.*\d\.)(\d)", one_more)


def median(root: Path) -> None:
    path = sorted((root / "benchmarks/results").glob("calibration_step-*.json"))[0]
    content = store.read_json(path)
    content["rows"]["sam"]["ratio"]["median"] = 0.5
    store.write_json(path, content)


FRAUDS: Mapping[str, tuple[Callable[[Path], None], str, str]] = {
    "a score": (score, "lock: data", f"data/scores/{SUITE}/ties.csv is not the file of stage evaluate@{SUITE}-ties"),
    "a published score": (published_score, "lock: evidence", f"data/scores/{SUITE}/ties.csv as the evidence has it is"),
    "a score, with its hashes": (careful_score, f"{SUITE}: table", "ties, textures is "),
    "a cell of a CSV table": (
        careful_cell(f"tables/{SUITE}.csv", r"(ties,TIES,Data-free,1,\d+\.\d\d)(\d)"),
        f"{SUITE}: table",
        "ties, optdigits is ",
    ),
    "a cell of a Markdown table": (
        careful_cell(f"tables/{SUITE}.md", r"(\| TIES \|[^|]*\d\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "a cell of a LaTeX table": (
        careful_cell(f"tables/{SUITE}-overview.tex", r"(SAMerging & [^&]*?\d\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-overview.tex, line ",
    ),
    "a cell of the page": (
        careful_cell("index.html", r"(>TIES<(?:.|\n)*?\d\.)(\d)"),
        "rendered again",
        "reports/index.html, line ",
    ),
    "another section for a method": (
        elsewhere,
        f"{SUITE}: table",
        "ties stands under Calibrated, not Data-free",
    ),
    "images of a caption": (
        careful_cell(f"tables/{SUITE}.md", r"(saw up to )(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "a caption in LaTeX": (
        careful_cell(f"tables/{SUITE}-overview.tex", r"(saw up to )(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-overview.tex, line ",
    ),
    "a caption of the page": (
        careful_cell("index.html", r"(saw up to )(\d)"),
        "rendered again",
        "reports/index.html, line ",
    ),
    "a sentence": (
        careful_cell(f"tables/{SUITE}-sentences.md", r"(between zero-shot \(\d+\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-sentences.md, line ",
    ),
    "a number of the documents": (overview_number, "documents", "docs/results.md, results: "),
    "a number of the headline": (headline_number, "documents", "README.md, headline: “"),
    "a headline without a row": (headline_row, "documents", "README.md, headline: “"),
    "a block that is gone": (no_block, "documents", "the block results stands in no document, not in one"),
    "a swapped expert": (expert, "lock: data", f"data/suites/{SUITE}/experts/textures.safetensors is not the file of "),
    "edited code": (code, "lock: code", "pipeline/methods/ties.py is not the file of stage "),
    "a leaked test image": (leak, f"{SUITE}: overlap", f"{TASK}: 1 images of train are in test, 0 are stated"),
    "a changed seed": (seed, "lock: parameters", f"seeds = [0, 7] but samerging@{SUITE} ran with [0, 1]"),
    "a changed seed, everywhere": (careful_seed, f"{SUITE}: draws", "samerging: seed 7 did not draw these images of "),
    "more images than allowed": (more_images, f"{SUITE}: seeds", "samerging: used 9 images per task"),
    "a stale figure": (figure, "lock: report", f"reports/figures/{SUITE}-accuracy.png is not the file of stage render"),
    "data of a figure": (
        careful_cell("plots/accuracy.csv", r"(ties,textures,,\d+\.?\d?)(\d)"),
        "rendered again",
        "reports/plots/accuracy.csv, line ",
    ),
    "a method left out of the table": (
        without_row(f"reports/tables/{SUITE}.csv", r"ties,TIES.*\n"),
        f"{SUITE}: table",
        "ties is missing",
    ),
    "a method left out of Markdown": (
        without_row(f"reports/tables/{SUITE}.md", r"\| TIES \|.*\n"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "another name for a method": (title, f"{SUITE}: table", "ties is called Best of all, not TIES"),
    "code that no stage declares": (undeclared_code, "lock: imports", "pipeline/steps/evaluate.py: stage evaluate"),
    "other images answered rightly": (
        other_answers,
        f"{SUITE}: answers",
        f"ties/textures is not what data/answers/{SUITE}/ties.npz holds",
    ),
    "a metric": (
        careful_cell("metrics.json", r"(\"samerging\": \d+\.)(\d)"),
        f"{SUITE}: metrics",
        "reports/metrics.json: samerging is ",
    ),
    "a metric left out": (
        without_row("reports/metrics.json", r' *"best_data_free": .*\n'),
        f"{SUITE}: metrics",
        "reports/metrics.json: best_data_free is nan",
    ),
    "a coefficient": (coefficient, f"{SUITE}: copies", "coefficients.csv: conv1.weight of optdigits, seed 0 is "),
    "a loss": (loss, f"{SUITE}: copies", "losses.csv: losses of distillation are not those of data/merges/"),
    "a measure": (measure, f"{SUITE}: copies", f"measures.csv is not data/diagnostics/{SUITE}/measures.csv"),
    "a median outside its range": (median, "documents", "ratio: median 0.5 is not within its range"),
    "a GPU without its driver": (
        without_driver,
        "environment",
        "NVIDIA H100, its driver or CUDA is not recorded",
    ),
    "another version": (version, "environment", f"data/runs/teach-{SUITE}.json: torch 1.0.0, requirements.lock has "),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_fails_on_the_line_that_says_why(repository: Path, name: str):
    tamper, line, why = FRAUDS[name]
    tamper(repository)
    found = findings(repository)[line]
    assert found.verdict == "FAIL"
    assert why in "; ".join(found.wrong)


def test_without_the_packages_that_render_the_audit_says_so(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pipeline.report.render", None)
    found = findings(repository)["rendered again"]
    assert (found.verdict, found.wrong) == ("none", [])
    assert "rendering needs pipeline.report.render" in found.line()


def test_with_other_packages_figures_are_compared_by_their_data(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendered, "version", lambda _: "0.0.1")
    figure(repository)
    found = findings(repository)["rendered again"]
    assert (found.verdict, found.wrong) == ("ok", [])
    assert "figures but for their data" in found.line()
    replaced(repository, f"reports/figures/{SUITE}-accuracy.csv", r"(ties,textures,\d+\.?\d?)(\d)", one_more)
    assert "accuracy.csv, line " in findings(repository)["rendered again"].wrong[0]


def test_a_report_without_tables_is_named(repository: Path):
    shutil.rmtree(repository / "reports/tables")
    found = findings(repository)
    assert f"reports/tables/{SUITE}.md is missing" in found["rendered again"].wrong
    assert "blocks cannot be generated: " in found["documents"].wrong[0]


def test_a_stage_that_never_ran_or_ran_otherwise_is_named(repository: Path):
    replaced(repository, "params.yaml", "  - average\n", "  - average\n  - wudi\n")
    replaced(repository, "dvc.yaml", "python -m stages.teach ", "python -m stages.teach  ")
    wrong = findings(repository)["lock: stages"].wrong
    assert f"merge@{SUITE}-wudi is not in dvc.lock: it never ran" in wrong
    assert f"teach@{SUITE} ran with other command than dvc.yaml declares" in wrong


def test_two_pipelines_that_dvc_ran_are_held_against_their_locks(tmp_path: Path):
    """A tiny repository of one stage at the root and one below stages/, run by DVC."""
    copies = "mkdir -p data/d && cp params.yaml data/d/b.txt && cp params.yaml data/d/a.txt"
    first = {"cmd": copies, "deps": ["pipeline"], "params": ["rate"], "outs": ["data/d"]}
    second = {"wdir": "../..", "cmd": "cp data/d/a.txt data/0.txt"}
    second |= {"deps": ["data/d"], "params": ["seeds"], "outs": ["data/0.txt"]}
    small_repository = {
        "params.yaml": "rate: 1e-05\nseeds: [0]\non: yes\n",
        "dvc.yaml": json.dumps({"stages": {"first": first}}),
        "stages/studies/dvc.yaml": json.dumps({"vars": ["../../params.yaml"], "stages": {"second": second}}),
        "pipeline/code.py": "",
        ".dvc/config": "[core]\n    no_scm = true\n    analytics = false\n",
    }
    for name, text in small_repository.items():
        store.write_text(tmp_path / name, text)
    with small_run.inside(tmp_path), Repo(str(tmp_path)) as repo:
        repo.reproduce(all_pipelines=True)
    found = lock_findings(tmp_path)
    assert {name: (one.verdict, one.compared) for name, one in found.items() if one.compared} == {
        "lock: stages": ("ok", 2),
        "lock: parameters": ("ok", 2),
        "lock: code": ("ok", 1),
        "lock: data": ("ok", 3),
        "lock: chain": ("ok", 1),
    }
    (tmp_path / "data/0.txt").write_text("else")
    wrong = lock_findings(tmp_path)["lock: data"].wrong
    assert wrong == ["data/0.txt is not the file of stage stages/studies:second: changed after the run"]


def test_one_split_for_both_must_be_said(repository: Path):
    replaced(repository, "params.yaml", "calibration_split: train", "calibration_split: test")
    wrong = findings(repository)[f"{SUITE}: overlap"].wrong
    assert wrong == ["calibrated on the test split that is scored, and the table does not say TRANSDUCTIVE"]
    replaced(repository, f"reports/tables/{SUITE}.md", "of the train split", "of the test split, TRANSDUCTIVE")
    assert not findings(repository)[f"{SUITE}: overlap"].wrong


def test_impossible_scores_are_named(repository: Path):
    replaced(repository, SCORES, r"(,ties,textures,,0,)\d+", r"\g<1>1000")
    assert re.search(r"ties/textures: 1000 of \d+ correct", findings(repository)[f"{SUITE}: scores"].line())


def test_the_command_prints_a_line_per_check_and_fails_with_any(repository: Path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main([]) == 0
    assert capsys.readouterr().out.count("\nok ") > 12
    code(repository)
    assert main([]) == 1
    printed_lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in printed_lines if line.startswith("FAIL")] == ["lock: code"]
    written = json.loads((repository / "reports/audit.json").read_text())
    assert [one["name"] for one in written if one["verdict"] == "FAIL"] == ["lock: code"]


def test_a_broken_file_ends_the_audit_with_its_name(repository: Path, monkeypatch):
    monkeypatch.chdir(repository)
    (repository / "dvc.lock").write_text("stages: [")
    with pytest.raises(SystemExit, match=r"audit: dvc\.lock: not valid YAML"):
        main([])
    (repository / "dvc.lock").unlink()
    with pytest.raises(SystemExit, match=r"dvc\.lock: no such file; run the audit at the root of the repository"):
        main([])


DAMAGED = (
    "params.yaml", "dvc.yaml", "dvc.lock", "requirements.lock", "pyproject.toml", "README.md", "docs/results.md",
    SCORES, f"{EVIDENCE}/{SUITE}/records.json", f"{EVIDENCE}/{SUITE}/answers.npz", f"reports/tables/{SUITE}.csv",
    f"reports/tables/{SUITE}-overview.md", f"reports/tables/{SUITE}-overview.tex",
    f"reports/tables/{SUITE}-prediction.csv", "reports/metrics.json", "reports/index.html",
    "reports/plots/accuracy.csv", f"data/suites/{SUITE}/suite.json", f"data/merges/{SUITE}/samerging/merge.json",
    "benchmarks/results/evaluation-cpu-vit-b-32.json",
)  # fmt: skip
UNHELD = {"pyproject.toml", "README.md", "requirements.lock"}
"""A file that is emptied or doubled may say nothing wrong."""
DAMAGE: tuple[Callable[[bytes], bytes], ...] = (
    lambda _: b"", lambda _: b"[]", lambda _: b"null", lambda _: b'{"stages": {"a": 1}, "suites": ["\xc3\xbc"]}',
    lambda _: b"\xff\x00", lambda content: content[: len(content) // 2], lambda content: content * 2,
)  # fmt: skip


@pytest.mark.parametrize("path", DAMAGED)
def test_no_damaged_file_passes_or_ends_in_a_traceback(small: Path, repository: Path, path: str):
    whole = (small / path).read_bytes()
    for damage in DAMAGE:
        (repository / path).write_bytes(damage(whole))
        try:
            wrong = [one for one in audit(gather(repository)) if one.wrong]
        except RepositoryError as error:
            assert len(str(error)) > 20
        else:
            assert wrong or path in UNHELD


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("\n", ",note\n", 1), "expected the columns suite, method"),
        (lambda text: text.replace("\n", "\n\n", 1), "expected the columns suite, method"),
        (lambda _: "", "not a table"),
    ],
)
def test_scores_that_are_no_scores_end_the_audit(repository: Path, monkeypatch, damage, message: str):
    monkeypatch.chdir(repository)
    path = repository / SCORES
    path.write_text(damage(path.read_text()))
    with pytest.raises(SystemExit, match=rf"audit: reports/evidence/suites/{SUITE}/scores\.csv: {message}"):
        main([])


def test_on_another_machine_tensors_are_close_or_named(repository: Path, tmp_path: Path):
    name, held = f"merge@{SUITE}-ties", gather(repository).yaml("dvc.lock")["stages"]
    for record in (repository / "data/runs").glob("*.json"):
        store.write_json(record, {**store.read_json(record), "processor": "another"})
    path = repository / f"data/merges/{SUITE}/ties/delta-0.safetensors"
    delta = dict(store.TensorFile(path))
    chosen = next(seed for seed in range(999) if random.Random(seed).choice(sorted(held)) == name)
    for factor, right in ((1.001, True), (1.5, False)):
        store.write_tensors(path, {key: factor * tensor for key, tensor in delta.items()})
        with small_run.inside(repository):
            (found,) = rerun.check(gather(repository), 1, chosen, tmp_path / str(factor))
        assert found.compared == len(delta)
        assert (not found.wrong) == right


def test_a_stage_computed_again_is_held_against_the_lock(repository: Path, tmp_path: Path, capsys):
    name, wrong = f"merge@{SUITE}-average", f"{'0' * 32}.dir"
    held = gather(repository).yaml("dvc.lock")["stages"]
    own = held[name]["outs"][0]["md5"]
    replaced(repository, "dvc.lock", own, wrong)
    chosen = next(seed for seed in range(999) if random.Random(seed).choice(sorted(held)) == name)
    with small_run.inside(repository):
        (found,) = rerun.check(gather(repository), 1, chosen, tmp_path / "again")
    assert f"seed {chosen} chose {name}" in capsys.readouterr().out
    assert "to the same bytes, on the same kind of device (cpu" in found.what
    assert found.wrong == [f"data/merges/{SUITE}/average came out with other bytes ({own}, dvc.lock has {wrong})"]


def test_nothing_is_computed_again_without_its_inputs(repository: Path, tmp_path: Path):
    shutil.rmtree(repository / "data")
    found = rerun.check(gather(repository), 2, 0, tmp_path)
    assert all(one.wrong and "cannot run without data/" in one.line() for one in found)


def test_the_audit_needs_neither_torch_nor_dvc():
    heavy = {"torch", "dvc", "scipy", "pydantic", "ruamel", "safetensors", "matplotlib", "sklearn", "PIL"}
    script = f"import sys, pipeline.audit.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("pool", "samples"), [(1, 1), (2, 5), (48, 8), (2000, 1600)])
def test_draws_are_those_of_the_library(pool: int, samples: int):
    for seed_, task in ((0, "mnist"), (7, "a_1"), (2**31, "ü")):
        own = draws.shuffle_pool(pool, seed_, task)
        assert own[:samples].tolist() == sample_indices(pool, samples, seed_, task).tolist()


def test_recomputed_values_are_those_of_the_tables():
    rng, tasks = np.random.default_rng(0), ["a", "b", "c"]
    seeds = {"zeroshot": [None], "individual": [None], "samerging": [4, 1, 2]}
    rows = [
        ("s", method, task, seed_, 0, int(rng.integers(low, 90)), 90)
        for (method, own), low in zip(seeds.items(), (0, 60, 30), strict=True)
        for seed_ in own
        for task in rng.permutation(tasks)
    ]
    frame = pd.DataFrame(rows, columns=["suite", "method", "task", "seed", "samples", "correct", "total"])
    theirs = tabulate_runs(frame.astype({"seed": "Int64"}), tasks)
    known = arithmetic.derive_accuracies(frame.fillna({"seed": -1}).astype({"seed": int}), tasks)
    for method in seeds:
        for name, values in arithmetic.derive_values(known, method).items():
            assert values == pytest.approx(theirs.loc[method, name].to_numpy(), abs=1e-12)


def test_values_without_floor_and_ceiling_are_undefined():
    flat = np.array([[50.0, 70.0]])
    alone = arithmetic.Accuracies(("a", "b"), {"samerging": flat}, {}, {})
    values = arithmetic.derive_values(alone, "samerging")
    assert values["Average"].tolist() == [60.0]
    assert values["Worst task"].tolist() == [50.0]
    assert np.isnan([values["Gap closed"], values["Normalised"]]).all()
    same = arithmetic.Accuracies(("a", "b"), dict.fromkeys(("zeroshot", "individual", "samerging"), flat), {}, {})
    assert np.isnan(arithmetic.derive_values(same, "samerging")["Gap closed"]).all()


@pytest.mark.parametrize(
    ("text", "value", "same"),
    [
        ("87.5", 87.4500001, True),
        ("87.5", 87.55, True),
        ("87.5", 87.44, False),
        ("1600", 1600, True),
        ("-0.03", -0.0311, True),
        ("0.03", -0.0311, False),
        ("", float("nan"), True),
        ("", 1.0, False),
        ("1.0", float("nan"), False),
        ("x", 1.0, False),
    ],
)
def test_printed_digits_agree_with_values(text: str, value: float, same: bool):
    assert arithmetic.agrees(text, value) is same


def test_images_in_common_are_counted_by_content():
    rng = np.random.default_rng(0)
    pool, scored = (
        rng.integers(256, size=(6, 4, 4, 3), dtype=np.uint8),
        rng.integers(256, size=(5, 4, 4, 3), dtype=np.uint8),
    )
    assert images.count_common(pool, scored) == 0
    pool[1], pool[4] = scored[2], scored[2]
    assert images.count_common(pool, scored) == 2


def test_tensors_are_read_without_their_library(tmp_path: Path):
    written = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.5, -1.0]), "c": torch.zeros(0, 2)}
    store.write_tensors(tmp_path / "data/x.safetensors", written)
    evidence = gather(tmp_path)
    found = evidence.tensors("data/x.safetensors")
    assert {name: value.tolist() for name, value in found.items()} == {k: v.tolist() for k, v in written.items()}
    (tmp_path / "data/x.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(RepositoryError, match=r"data/x\.safetensors: not a safetensors file of numbers"):
        evidence.tensors("data/x.safetensors")


def test_scores_that_are_no_counts_are_refused(tmp_path: Path):
    header = "suite,method,task,seed,samples,correct,total\n"
    store.write_text(tmp_path / "reports/evidence/suites/s/scores.csv", f"{header}s,ties,a,,0,1.5,3\n")
    with pytest.raises(RepositoryError, match=r"reports/evidence/suites/s/scores\.csv: counts must be whole numbers"):
        _ = AuditedSuite(gather(tmp_path), "s").scores


def test_stamps_are_md5_and_size_and_leave_out_what_dvc_ignores(tmp_path: Path):
    for name in ("pipeline/a.py", "pipeline/__pycache__/a.pyc", "pipeline/b.pyc", "data/.partial/x", "elsewhere/c.py"):
        store.write_text(tmp_path / name, "text")
    (only,) = gather(tmp_path).stamps.items()
    assert only == ("pipeline/a.py", stamp_bytes(b"text"))
    assert only[1].md5 == hashlib.md5(b"text").hexdigest()
    assert only[1].size == 4


RESULTS = ("tables", "figures", "plots", "evidence", "index.html", "metrics.json")


@pytest.fixture
def widened(repository: Path) -> Path:
    """A run that has the run of every method beside it; here both have the same methods."""
    apply_overrides(str(repository / "params.yaml"), ["every_method=${methods}"])
    for name in ("params.yaml", "dvc.lock", *(f"reports/{name}" for name in RESULTS)):
        source, target = repository / name, repository / "reports/methods" / name.removeprefix("reports/")
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return repository


@pytest.mark.parametrize("name", ["params.yaml", "dvc.lock"])
def test_a_run_of_every_method_without_its_lock_is_named(widened: Path, name: str):
    (widened / "reports/methods" / name).unlink()
    with pytest.raises(RepositoryError, match=rf"^reports/methods/{re.escape(name)}: no such file"):
        audit(gather(widened))


def test_the_run_of_every_method_is_audited_as_one(widened: Path):
    found = findings(widened)
    assert not [one.line() for one in found.values() if one.wrong]
    for name in ("scores", "table", "comparisons", "seeds"):
        assert found[f"every method, {SUITE}: {name}"].compared == found[f"{SUITE}: {name}"].compared > 0
    assert found["every method, lock: evidence"].compared > 20
    assert found["every method, parameters"].compared > 10


def other_rho(kept: Path) -> None:
    apply_overrides(str(kept / "params.yaml"), ["rho=0.5"])


def fewer_methods(kept: Path) -> None:
    apply_overrides(str(kept / "params.yaml"), ["methods.rescale=[]"])


def other_count(kept: Path) -> None:
    path = kept / f"evidence/suites/{SUITE}/scores.csv"
    head, *lines = path.read_text().splitlines(keepends=True)
    index = next(index for index, line in enumerate(lines) if ",samerging," in line)
    *row, correct, total = lines[index].split(",")
    lines[index] = ",".join([*row, str(abs(int(correct) - 1)), total])
    path.write_text(head + "".join(lines))


@pytest.mark.parametrize(
    ("fraud", "name"),
    [
        (other_rho, "every method, parameters"),
        (other_rho, "every method, lock: parameters"),
        (fewer_methods, "every method, parameters"),
        (other_count, "every method, lock: evidence"),
        (other_count, f"every method, {SUITE}: table"),
    ],
)
def test_frauds_in_the_run_of_every_method_are_caught(widened: Path, fraud: Callable[[Path], None], name: str):
    fraud(widened / "reports/methods")
    assert findings(widened)[name].wrong
