"""The audit passes a true run, with and without data/, and fails every planted fraud with the reason."""

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

from pipeline.audit import arithmetic, draws, examples, lock, rendered, rerun
from pipeline.audit.__main__ import audit, main
from pipeline.audit.finding import Finding, agrees
from pipeline.audit.repository import RepositoryError, gather, hash_directory, stamp_bytes
from pipeline.audit.stages import read_pipelines
from pipeline.audit.suite import AuditedSuite
from pipeline.runtime import store
from pipeline.statistics.accuracy import tabulate_runs
from pipeline.statistics.sampling import sample_indices
from tests.support import small_run

SUITE = "nano-3"
EVIDENCE = "reports/evidence/suites"
SCORES = f"{EVIDENCE}/{SUITE}/scores.csv"
TASK = "textures"


pytestmark = pytest.mark.usefixtures("rendered_once", "imports_followed_once")


@pytest.fixture
def repository(small: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return small_run.copy(small, tmp_path / "repository")


def findings(root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in audit(gather(root))}


def test_a_finished_run_passes(small: Path):
    checks = findings(small)
    assert not [finding.line() for finding in checks.values() if finding.wrong]
    unchecked = {name for name, finding in checks.items() if finding.verdict == "none"}
    assert unchecked <= {f"{SUITE}: {name}" for name in ("anchors", "answers", "comparisons", "studies")}
    assert checks["lock: stages"].compared == len(gather(small).yaml("dvc.lock")["stages"].keys() - {"check"})
    assert checks["lock: data"].absent == []


def test_a_clone_without_data_is_audited_as_far_as_possible(repository: Path):
    whole = findings(repository)
    record_path = repository / f"data/runs/train-{SUITE}.json"  # committed to Git
    record = record_path.read_bytes()
    shutil.rmtree(repository / "data")
    record_path.parent.mkdir(parents=True)
    record_path.write_bytes(record)
    shutil.rmtree(repository / ".dvc")
    checks = findings(repository)
    assert not [finding.line() for finding in checks.values() if finding.wrong]
    for name in ("scores", "table", "comparisons", "seeds"):
        assert checks[f"{SUITE}: {name}"] == whole[f"{SUITE}: {name}"]
    assert checks["environment"] == whole["environment"]
    assert checks["lock: evidence"].compared > 20
    assert (checks["lock: data"].compared, checks["lock: data"].verdict) == (1, "ok")
    assert "not checked: " in checks["lock: data"].line()
    assert checks[f"{SUITE}: draws"].absent == ["merge artefacts"]


def lock_findings(root: Path) -> dict[str, Finding]:
    return {finding.name: finding for finding in lock.check(gather(root))}


def replace_in(root: Path, path: str, pattern: str, new: str | Callable[[re.Match], str]) -> None:
    """Replace the first match of `pattern` in a text file."""
    text = (root / path).read_text()
    changed = re.sub(pattern, new, text, count=1)
    assert changed != text, f"{path} has no {pattern}"
    (root / path).write_text(changed)


def rehash(root: Path) -> None:
    """Write the hashes of the present files into dvc.lock, as a careful fraud would."""
    evidence, text = gather(root), (root / "dvc.lock").read_text()
    for _, entry in lock.entries(evidence.yaml("dvc.lock")["stages"]):
        path, old = entry["path"], entry["md5"]
        new = evidence.stamps[path].md5 if path in evidence.stamps else hash_directory(evidence.members(path))
        text = text.replace(old, new)
    (root / "dvc.lock").write_text(text)
    shutil.rmtree(root / ".dvc")


def increment_digit(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


def alter_score(root: Path) -> None:
    replace_in(root, f"data/scores/{SUITE}/ties.csv", r"(ties,textures,,0,)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}")


def alter_published_score(root: Path) -> None:
    replace_in(root, SCORES, r"(,ties,textures,,0,)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}")


def alter_score_and_hashes(root: Path) -> None:
    alter_score(root)
    alter_published_score(root)
    rehash(root)


def alter_report_and_hashes(kind: str, pattern: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        replace_in(root, f"reports/{kind}", pattern, increment_digit)
        rehash(root)

    return change


def swap_expert(root: Path) -> None:
    folder = root / f"data/suites/{SUITE}/experts"
    shutil.copy(folder / "signs.safetensors", folder / "textures.safetensors")


def edit_code(root: Path) -> None:
    with (root / "pipeline/methods/ties.py").open("a") as file:
        file.write("\n")


def leak_test_example(root: Path) -> None:
    """Put a test example among the calibration examples and correct the hashes."""
    train, test = (root / f"data/suites/{SUITE}/images/{split}/{TASK}.npy" for split in ("train", "test"))
    pool = np.load(train)
    pool[3] = np.load(test)[5]
    np.save(train, pool)
    rehash(root)


def change_seed(root: Path) -> None:
    replace_in(root, "params.yaml", r"seeds:\n- 0\n- 1\n", "seeds:\n- 0\n- 7\n")


def change_seed_everywhere(root: Path) -> None:
    """Claim another seed wherever one is recorded, for the same draws."""
    change_seed(root)
    for path in (*sorted((root / "data").rglob("*.csv")), root / SCORES):
        path.write_text(re.sub(r"^((?:\d+,)?nano-3,[^,]+,[^,]+),1,", r"\1,7,", path.read_text(), flags=re.MULTILINE))
    for path in sorted((root / "data/merges").rglob("merge.json")):
        content = store.read_json(path)
        store.write_json(path, {**content, "seeds": [7 if seed == 1 else seed for seed in content["seeds"]]})
    rehash(root)


def claim_more_examples(root: Path) -> None:
    for path in (root / f"data/scores/{SUITE}/samerging.csv", root / SCORES):
        path.write_text(re.sub(r"(,samerging,\w+,\d,)8,", r"\g<1>9,", path.read_text()))
    rehash(root)


def replace_figure(root: Path) -> None:
    folder = root / "reports/figures"
    shutil.copy(folder / f"{SUITE}-losses.png", folder / f"{SUITE}-accuracy.png")


def change_version(root: Path) -> None:
    path = root / "data/runs" / f"teach-{SUITE}.json"
    content = store.read_json(path)
    content["packages"]["torch"] = "1.0.0"
    store.write_json(path, content)


def run_a_study_with_another_version(root: Path) -> None:
    content = store.read_json(root / "data/runs" / f"teach-{SUITE}.json")
    content["packages"]["torch"] = "1.0.0"
    store.write_json(root / f"data/studies/runs/ablation-{SUITE}.json", content)


def drop_driver(root: Path) -> None:
    path = root / "data/runs" / f"teach-{SUITE}.json"
    store.write_json(path, store.read_json(path) | {"device": "NVIDIA H100", "cuda": "13.0"})


def alter_overview(root: Path) -> None:
    replace_in(root, "docs/results.md", r"(\| TIES \|[^|]*\d\.)(\d)", increment_digit)


def alter_headline(root: Path) -> None:
    replace_in(root, "README.md", r"(\| Distillation \|[^|]*\d\.)(\d)", increment_digit)


def drop_headline_row(root: Path) -> None:
    replace_in(root, "README.md", r"\| Distillation \|.*\n", "")


def drop_block_end(root: Path) -> None:
    replace_in(root, "docs/results.md", "<!-- /results -->\n", "")


def drop_row_and_rehash(path: str, pattern: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        replace_in(root, path, pattern, "")
        rehash(root)

    return change


def change_title(root: Path) -> None:
    replace_in(root, f"reports/tables/{SUITE}.csv", "ties,TIES,", "ties,Best of all,")
    rehash(root)


def change_group(root: Path) -> None:
    replace_in(root, f"reports/tables/{SUITE}.csv", "ties,TIES,Data-free,", "ties,TIES,Calibrated,")
    rehash(root)


def undeclare_code(root: Path) -> None:
    for path in ("dvc.yaml", "dvc.lock"):
        text = re.sub(r"( *)- (path: )?pipeline/steps/evaluate\.py\n(\1  [^-].*\n)*", "", (root / path).read_text())
        (root / path).write_text(text)
    with (root / "pipeline/steps/evaluate.py").open("a") as file:
        file.write("\n")


def swap_answers(root: Path) -> None:
    """Keep the number of right answers, but on other examples."""
    path = root / f"{EVIDENCE}/{SUITE}/answers.npz"
    packed = dict(np.load(path))
    bits = np.unpackbits(packed["ties/textures"], axis=1)[:, : np.load(answers_path(root))["labels/textures"].size]
    right, wrong = (np.flatnonzero(bits[0] == value)[0] for value in (1, 0))
    bits[0, [right, wrong]] = (0, 1)
    store.write_arrays(path, packed | {"ties/textures": np.packbits(bits, axis=1)})
    rehash(root)


def answers_path(root: Path) -> Path:
    return root / f"data/answers/{SUITE}/ties.npz"


def alter_coefficient(root: Path) -> None:
    replace_in(root, f"{EVIDENCE}/{SUITE}/coefficients.csv", r"(0,optdigits,conv1\.weight,-?\d\.)(\d)", increment_digit)


def alter_loss(root: Path) -> None:
    replace_in(root, f"{EVIDENCE}/{SUITE}/losses.csv", r"(distillation,0,1,\d\.)(\d)", increment_digit)


def alter_measure(root: Path) -> None:
    replace_in(root, f"{EVIDENCE}/{SUITE}/measures.csv", r"(cosine,.*\d\.)(\d)", increment_digit)


def alter_clusters(root: Path) -> None:
    path = root / f"{EVIDENCE}/{SUITE}/clusters.npz"
    arrays = store.read_arrays(path)
    arrays["test/signs"] = arrays["test/signs"][::-1]
    store.write_arrays(path, arrays, compress=True)


def alter_median(root: Path) -> None:
    path = sorted((root / "benchmarks/results").glob("calibration_step-*.json"))[0]
    content = store.read_json(path)
    content["rows"]["sam"]["ratio"]["median"] = 0.5
    store.write_json(path, content)


FRAUDS: Mapping[str, tuple[Callable[[Path], None], str, str]] = {
    "a score": (
        alter_score,
        "lock: data",
        f"data/scores/{SUITE}/ties.csv is not the file of stage evaluate@{SUITE}-ties",
    ),
    "a published score": (
        alter_published_score,
        "lock: evidence",
        f"data/scores/{SUITE}/ties.csv as the evidence has it is",
    ),
    "a score, with its hashes": (alter_score_and_hashes, f"{SUITE}: table", "ties, textures is "),
    "a cell of a CSV table": (
        alter_report_and_hashes(f"tables/{SUITE}.csv", r"(ties,TIES,Data-free,1,\d+\.\d\d)(\d)"),
        f"{SUITE}: table",
        "ties, optdigits is ",
    ),
    "a cell of a Markdown table": (
        alter_report_and_hashes(f"tables/{SUITE}.md", r"(\| TIES \|[^|]*\d\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "a cell of a LaTeX table": (
        alter_report_and_hashes(f"tables/{SUITE}-overview.tex", r"(SAMerging & [^&]*?\d\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-overview.tex, line ",
    ),
    "a cell of the page": (
        alter_report_and_hashes("index.html", r"(>TIES<(?:.|\n)*?\d\.)(\d)"),
        "rendered again",
        "reports/index.html, line ",
    ),
    "another section for a method": (
        change_group,
        f"{SUITE}: table",
        "ties stands under Calibrated, not Data-free",
    ),
    "examples of a caption": (
        alter_report_and_hashes(f"tables/{SUITE}.md", r"(draw from up to )(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "a caption in LaTeX": (
        alter_report_and_hashes(f"tables/{SUITE}-overview.tex", r"(draw from up to )(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-overview.tex, line ",
    ),
    "a caption of the page": (
        alter_report_and_hashes("index.html", r"(draw from up to )(\d)"),
        "rendered again",
        "reports/index.html, line ",
    ),
    "a sentence": (
        alter_report_and_hashes(f"tables/{SUITE}-sentences.md", r"(between zero-shot \(\d+\.)(\d)"),
        "rendered again",
        f"reports/tables/{SUITE}-sentences.md, line ",
    ),
    "a number of the documents": (alter_overview, "documents", "docs/results.md, results: "),
    "a number of the headline": (alter_headline, "documents", "README.md, headline: “"),
    "a headline without a row": (drop_headline_row, "documents", "README.md, headline: “"),
    "a block that is gone": (drop_block_end, "documents", "the block results stands in no document, not in one"),
    "a swapped expert": (
        swap_expert,
        "lock: data",
        f"data/suites/{SUITE}/experts/textures.safetensors is not the file of ",
    ),
    "edited code": (edit_code, "lock: code", "pipeline/methods/ties.py is not the file of stage "),
    "a leaked test example": (
        leak_test_example,
        f"{SUITE}: overlap",
        f"{TASK}: 1 examples of train are in test, 0 are stated",
    ),
    "a changed seed": (change_seed, "lock: parameters", f"seeds = [0, 7] but samerging@{SUITE} ran with [0, 1]"),
    "a changed seed, everywhere": (
        change_seed_everywhere,
        f"{SUITE}: draws",
        "samerging: seed 7 did not draw these examples of ",
    ),
    "more examples than allowed": (claim_more_examples, f"{SUITE}: seeds", "samerging: used 9 examples per task"),
    "a stale figure": (
        replace_figure,
        "lock: report",
        f"reports/figures/{SUITE}-accuracy.png is not the file of stage render",
    ),
    "data of a figure": (
        alter_report_and_hashes("plots/accuracy.csv", r"(ties,textures,,\d+\.?\d?)(\d)"),
        "rendered again",
        "reports/plots/accuracy.csv, line ",
    ),
    "a method left out of the table": (
        drop_row_and_rehash(f"reports/tables/{SUITE}.csv", r"ties,TIES.*\n"),
        f"{SUITE}: table",
        "ties is missing",
    ),
    "a method left out of Markdown": (
        drop_row_and_rehash(f"reports/tables/{SUITE}.md", r"\| TIES \|.*\n"),
        "rendered again",
        f"reports/tables/{SUITE}.md, line ",
    ),
    "another name for a method": (change_title, f"{SUITE}: table", "ties is called Best of all, not TIES"),
    "code that no stage declares": (undeclare_code, "lock: imports", "pipeline/steps/evaluate.py: stage evaluate"),
    "other examples answered rightly": (
        swap_answers,
        f"{SUITE}: answers",
        f"ties/textures is not what data/answers/{SUITE}/ties.npz holds",
    ),
    "a metric": (
        alter_report_and_hashes("metrics.json", r"(\"samerging\": \d+\.)(\d)"),
        f"{SUITE}: metrics",
        "reports/metrics.json: samerging is ",
    ),
    "a metric left out": (
        drop_row_and_rehash("reports/metrics.json", r' *"best_data_free": .*\n'),
        f"{SUITE}: metrics",
        "reports/metrics.json: best_data_free is nan",
    ),
    "a coefficient": (alter_coefficient, f"{SUITE}: copies", "coefficients.csv: conv1.weight of optdigits, seed 0 is "),
    "a loss": (alter_loss, f"{SUITE}: copies", "losses.csv: losses of distillation are not those of data/merges/"),
    "a cluster": (alter_clusters, f"{SUITE}: copies", "clusters.npz: test/signs is not as in data/suites/"),
    "a measure": (alter_measure, f"{SUITE}: copies", f"measures.csv is not data/diagnostics/{SUITE}/measures.csv"),
    "a median outside its range": (alter_median, "documents", "ratio: median 0.5 is not within its range"),
    "a GPU without its driver": (
        drop_driver,
        "environment",
        "NVIDIA H100, its driver or CUDA is not recorded",
    ),
    "another version": (
        change_version,
        "environment",
        f"data/runs/teach-{SUITE}.json: torch 1.0.0, requirements.lock has ",
    ),
    "another version of a study": (
        run_a_study_with_another_version,
        "environment",
        f"data/studies/runs/ablation-{SUITE}.json: torch 1.0.0, requirements.lock has ",
    ),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_fails_its_check_with_the_reason(repository: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    tamper, check, why = FRAUDS[name]
    tamper(repository)
    if check != "rendered again":  # seconds, where a fraud changes the evidence
        monkeypatch.setitem(sys.modules, "pipeline.report.render", None)
    finding = findings(repository)[check]
    assert finding.verdict == "FAIL"
    assert why in "; ".join(finding.wrong)


def test_without_rendering_packages_nothing_is_rendered_again(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pipeline.report.render", None)
    finding = findings(repository)["rendered again"]
    assert (finding.verdict, finding.wrong) == ("none", [])
    assert "rendering needs pipeline.report.render" in finding.line()


def test_with_other_packages_figures_are_compared_by_their_data(repository: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rendered, "version", lambda _: "0.0.1")
    replace_figure(repository)
    finding = findings(repository)["rendered again"]
    assert (finding.verdict, finding.wrong) == ("ok", [])
    assert "figures but for their data" in finding.line()
    replace_in(repository, f"reports/figures/{SUITE}-accuracy.csv", r"(ties,textures,\d+\.?\d?)(\d)", increment_digit)
    assert "accuracy.csv, line " in findings(repository)["rendered again"].wrong[0]


def test_a_report_without_tables_is_named(repository: Path):
    shutil.rmtree(repository / "reports/tables")
    checks = findings(repository)
    assert f"reports/tables/{SUITE}.md is missing" in checks["rendered again"].wrong
    assert "blocks cannot be generated: " in checks["documents"].wrong[0]


def test_a_stage_that_never_ran_or_ran_another_command_is_named(repository: Path):
    replace_in(repository, "params.yaml", "  - ties\n", "  - ties\n  - wudi\n")
    replace_in(repository, "dvc.yaml", "python -m stages.teach ", "python -m stages.teach  ")
    wrong = findings(repository)["lock: stages"].wrong
    assert f"merge@{SUITE}-wudi is not in dvc.lock: it never ran" in wrong
    assert f"teach@{SUITE} ran with other command than dvc.yaml declares" in wrong


def test_studies_that_are_not_chosen_need_not_have_run(tmp_path: Path):
    names = ("flatness", "language")
    outs = {study: {"wdir": "../..", "cmd": study, "outs": [f"data/studies/s/{study}"]} for study in names}
    files = {
        "params.yaml": "suites: [s]\nstudies: [flatness]\n",
        "dvc.yaml": "stages: {}\n",
        "dvc.lock": "stages: {}\n",
        "stages/studies/dvc.yaml": json.dumps({"stages": outs}),
        "stages/studies/dvc.lock": "stages: {}\n",
    }
    for name, content in files.items():
        store.write_text(tmp_path / name, content)
    declared, _, idle = read_pipelines(gather(tmp_path))
    assert ([*declared], idle) == (["stages/studies:flatness"], [])


def test_two_pipelines_are_checked_against_their_locks(tmp_path: Path):
    """DVC runs a tiny repository with one stage at the root and one below stages/."""
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
    checks = lock_findings(tmp_path)
    assert {name: (finding.verdict, finding.compared) for name, finding in checks.items() if finding.compared} == {
        "lock: stages": ("ok", 2),
        "lock: parameters": ("ok", 2),
        "lock: code": ("ok", 1),
        "lock: data": ("ok", 3),
        "lock: chain": ("ok", 1),
    }
    (tmp_path / "data/0.txt").write_text("else")
    wrong = lock_findings(tmp_path)["lock: data"].wrong
    assert wrong == ["data/0.txt is not the file of stage stages/studies:second: changed after the run"]


def test_calibration_on_the_test_split_must_be_declared(repository: Path):
    replace_in(repository, "params.yaml", "calibration_split: train", "calibration_split: test")
    wrong = findings(repository)[f"{SUITE}: overlap"].wrong
    assert wrong == ["calibrated on the test split that is scored, and the table does not say TRANSDUCTIVE"]
    replace_in(repository, f"reports/tables/{SUITE}.md", "of the train split", "of the test split, TRANSDUCTIVE")
    assert not findings(repository)[f"{SUITE}: overlap"].wrong


def test_impossible_scores_are_named(repository: Path):
    replace_in(repository, SCORES, r"(,ties,textures,,0,)\d+", r"\g<1>1000")
    assert re.search(r"row \d+: 1000 of \d+ correct", findings(repository)[f"{SUITE}: scores"].line())


def test_the_command_prints_a_line_per_check_and_fails_if_any_fails(repository: Path, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main([]) == 0
    assert capsys.readouterr().out.count("\nok ") > 12
    edit_code(repository)
    assert main([]) == 1
    printed_lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in printed_lines if line.startswith("FAIL")] == ["lock: code"]
    records = json.loads((repository / "reports/audit.json").read_text())
    assert [record["name"] for record in records if record["verdict"] == "FAIL"] == ["lock: code"]


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
UNCHECKED = {"pyproject.toml", "README.md", "requirements.lock"}
"""Files that may be emptied or doubled unnoticed."""
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
            wrong = [finding for finding in audit(gather(repository)) if finding.wrong]
        except RepositoryError as error:
            assert len(str(error)) > 20
        else:
            assert wrong or path in UNCHECKED


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("\n", ",note\n", 1), "expected the columns suite, method"),
        (lambda text: text.replace("\n", "\n\n", 1), "expected the columns suite, method"),
        (lambda _: "", "not a table"),
    ],
)
def test_malformed_scores_end_the_audit(repository: Path, monkeypatch, damage, message: str):
    monkeypatch.chdir(repository)
    path = repository / SCORES
    path.write_text(damage(path.read_text()))
    with pytest.raises(SystemExit, match=rf"audit: reports/evidence/suites/{SUITE}/scores\.csv: {message}"):
        main([])


def rerunnable(stages: dict[str, dict]) -> list[str]:
    """The stages that have results, in the order that is drawn from."""
    return sorted(stages.keys() - {"check"})


def test_on_another_machine_tensors_are_close_or_named(repository: Path, tmp_path: Path):
    name, stages = f"merge@{SUITE}-ties", gather(repository).yaml("dvc.lock")["stages"]
    for record in (repository / "data/runs").glob("*.json"):
        store.write_json(record, {**store.read_json(record), "processor": "another"})
    path = repository / f"data/merges/{SUITE}/ties/delta-0.safetensors"
    delta = dict(store.TensorFile(path))
    draw_seed = next(seed for seed in range(999) if random.Random(seed).choice(rerunnable(stages)) == name)
    for factor, close in ((1.001, True), (1.5, False)):
        store.write_tensors(path, {key: factor * tensor for key, tensor in delta.items()})
        with small_run.inside(repository):
            (finding,) = rerun.check(gather(repository), 1, draw_seed, tmp_path / str(factor))
        assert finding.compared == len(delta)
        assert (not finding.wrong) == close


def test_a_stage_computed_again_is_compared_with_the_lock(repository: Path, tmp_path: Path, capsys):
    name, false_hash = f"merge@{SUITE}-ties", f"{'0' * 32}.dir"
    stages = gather(repository).yaml("dvc.lock")["stages"]
    true_hash = stages[name]["outs"][0]["md5"]
    replace_in(repository, "dvc.lock", true_hash, false_hash)
    draw_seed = next(seed for seed in range(999) if random.Random(seed).choice(rerunnable(stages)) == name)
    with small_run.inside(repository):
        (finding,) = rerun.check(gather(repository), 1, draw_seed, tmp_path / "again")
    assert f"seed {draw_seed} chose {name}" in capsys.readouterr().out
    assert "to the same bytes, on the same kind of device (cpu" in finding.what
    assert finding.wrong == [
        f"data/merges/{SUITE}/ties came out with other bytes ({true_hash}, dvc.lock has {false_hash})"
    ]


def test_nothing_is_computed_again_without_its_inputs(repository: Path, tmp_path: Path):
    shutil.rmtree(repository / "data")
    reruns = rerun.check(gather(repository), 2, 0, tmp_path)
    assert all(finding.wrong and "cannot run without data/" in finding.line() for finding in reruns)


def test_the_audit_needs_neither_torch_nor_dvc():
    heavy = {"torch", "dvc", "scipy", "pydantic", "ruamel", "safetensors", "matplotlib", "sklearn", "PIL"}
    script = f"import sys, pipeline.audit.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_seeds_of_a_method_are_expected_in_place_of_those_of_all():
    params = {
        "methods": {"merge": ["ties", "dare"]}, "seeds": [2, 0], "samples_per_task": 9, "rescale": {"samples": 4},
        "merge": {"ties": {}, "dare": {"seeds": [7, 5]}},
        "calibrate": {"fisher": {}, "m_ties_random": {"seeds": [4, 3]}},
    }  # fmt: skip
    expected = {
        "ties": [-1], "dare": [5, 7], "fisher": [0, 2], "samerging": [0, 2], "m_ties_random": [3, 4],
        "ties-rescaled": [0, 2], "m_ties_random-rescaled": [3, 4], "surgery-m_ties_random": [3, 4],
    }  # fmt: skip
    assert {method: draws.claimed_runs(method, params)[0] for method in expected} == expected


@pytest.mark.parametrize(("pool", "samples"), [(1, 1), (2, 5), (48, 8), (2000, 1600)])
def test_draws_agree_with_the_package(pool: int, samples: int):
    for seed, task in ((0, "mnist"), (7, "a_1"), (2**31, "ü")):
        order = draws.shuffle_pool(pool, seed, task)
        assert order[:samples].tolist() == sample_indices(pool, samples, seed, task).tolist()


def test_recomputed_values_agree_with_the_tables():
    rng, tasks = np.random.default_rng(0), ["a", "b", "c"]
    seeds = {"zeroshot": [None], "individual": [None], "samerging": [4, 1, 2]}
    rows = [
        ("s", method, task, seed, 0, int(rng.integers(low, 90)), 90)
        for (method, method_seeds), low in zip(seeds.items(), (0, 60, 30), strict=True)
        for seed in method_seeds
        for task in rng.permutation(tasks)
    ]
    frame = pd.DataFrame(rows, columns=["suite", "method", "task", "seed", "samples", "correct", "total"])
    table = tabulate_runs(frame.astype({"seed": "Int64"}), tasks)
    accuracies = arithmetic.derive_accuracies(frame.fillna({"seed": -1}).astype({"seed": int}), tasks)
    for method in seeds:
        for name, values in arithmetic.derive_values(accuracies, method).items():
            assert values == pytest.approx(table.loc[method, name].to_numpy(), abs=1e-12)


def test_values_without_floor_and_ceiling_are_undefined():
    flat = np.array([[50.0, 70.0]])
    without_ends = arithmetic.Accuracies(("a", "b"), {"samerging": flat}, {}, {})
    values = arithmetic.derive_values(without_ends, "samerging")
    assert values["Average"].tolist() == [60.0]
    assert values["Worst task"].tolist() == [50.0]
    assert np.isnan([values["Gap closed"], values["Normalised"]]).all()
    equal_ends = arithmetic.Accuracies(("a", "b"), dict.fromkeys(("zeroshot", "individual", "samerging"), flat), {}, {})
    assert np.isnan(arithmetic.derive_values(equal_ends, "samerging")["Gap closed"]).all()


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
    assert agrees(text, value) is same


def test_examples_in_common_are_counted_by_content():
    rng = np.random.default_rng(0)
    pool, scored = (
        rng.integers(256, size=(6, 4, 4, 3), dtype=np.uint8),
        rng.integers(256, size=(5, 4, 4, 3), dtype=np.uint8),
    )
    assert examples.count_common(pool, scored) == 0
    pool[1], pool[4] = scored[2], scored[2]
    assert examples.count_common(pool, scored) == 2


def test_tensors_are_read_without_their_library(tmp_path: Path):
    written = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor([0.5, -1.0]), "c": torch.zeros(0, 2)}
    store.write_tensors(tmp_path / "data/x.safetensors", written)
    evidence = gather(tmp_path)
    tensors = evidence.tensors("data/x.safetensors")
    assert {name: value.tolist() for name, value in tensors.items()} == {k: v.tolist() for k, v in written.items()}
    (tmp_path / "data/x.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(RepositoryError, match=r"data/x\.safetensors: not a safetensors file of numbers"):
        evidence.tensors("data/x.safetensors")


def test_fractional_counts_are_refused(tmp_path: Path):
    header = "suite,method,task,seed,samples,correct,total\n"
    store.write_text(tmp_path / "reports/evidence/suites/s/scores.csv", f"{header}s,ties,a,,0,1.5,3\n")
    with pytest.raises(RepositoryError, match=r"reports/evidence/suites/s/scores\.csv: counts must be whole numbers"):
        _ = AuditedSuite(gather(tmp_path), "s").scores


def test_stamps_are_md5_and_size_of_files_that_are_not_ignored(tmp_path: Path):
    for name in ("pipeline/a.py", "pipeline/__pycache__/a.pyc", "pipeline/b.pyc", "data/.partial/x", "elsewhere/c.py"):
        store.write_text(tmp_path / name, "text")
    (item,) = gather(tmp_path).stamps.items()
    assert item == ("pipeline/a.py", stamp_bytes(b"text"))
    assert item[1].md5 == hashlib.md5(b"text").hexdigest()
    assert item[1].size == 4


RESULTS = ("tables", "figures", "plots", "evidence", "index.html", "metrics.json")


@pytest.fixture
def widened(repository: Path) -> Path:
    """A run next to a run of every method; here both have the same methods."""
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


def test_the_run_of_every_method_is_audited_too(widened: Path):
    checks = findings(widened)
    assert not [finding.line() for finding in checks.values() if finding.wrong]
    for name in ("scores", "table", "comparisons", "seeds"):
        assert checks[f"every method, {SUITE}: {name}"].compared == checks[f"{SUITE}: {name}"].compared > 0
    assert checks["every method, lock: evidence"].compared > 20
    assert checks["every method, parameters"].compared > 10


def other_rho(folder: Path) -> None:
    apply_overrides(str(folder / "params.yaml"), ["rho=0.5"])


def fewer_methods(folder: Path) -> None:
    apply_overrides(str(folder / "params.yaml"), ["methods.rescale=[]"])


def other_count(folder: Path) -> None:
    path = folder / f"evidence/suites/{SUITE}/scores.csv"
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
