"""README.md and docs/ agree with the files and name nothing that does not exist."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, t

from benchmarks import RESULTS, readme
from pipeline.audit import documents as audited
from pipeline.audit.repository import gather
from tests.support import toy

FRONT = readme.ROOT / "README.md"
PAGES = {path.relative_to(readme.ROOT).as_posix(): path for path in readme.documents()}
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SUITE = f"pipeline/suites/{readme.SUITE}.yaml"
POINTS = {"README.md": "## What we found", "docs/studies.md": "## What the studies say"}


def test_blocks_agree_with_the_files():
    made = readme.blocks()
    texts = [path.read_text("utf-8") for path in PAGES.values()]
    assert [readme.replaced(text, made) for text in texts] == texts
    for name, content in made.items():
        assert len(content) > 400, name
        assert len([text for text in texts if content in text]) == 1, name


def test_only_the_methods_are_listed_each_with_its_paper():
    listed = readme.methods()
    named = re.findall(r"^- \[.*\]\(\.\./pipeline/methods/(\w+)\.py\) \(`\1`\): .*\. \*.*\.\*", listed, re.MULTILINE)
    assert sorted(named) == sorted(path.stem for path in (readme.ROOT / "pipeline/methods").glob("[!_]*.py"))
    doubted = [
        path for path in (readme.ROOT / "pipeline/methods").glob("*.py") if "\nUNVERIFIED = " in path.read_text()
    ]
    assert listed.count("† Our reading: ") == len(doubted) > 0


def write_accuracies(folder: Path, suite: str, rows: dict[str, list[int]]) -> Path:
    """Write the scores of a suite, a count of 100 right answers for every method and task; return their path."""
    lines = [
        f"{suite},{name},{task},,0,{hits},100" for name, counts in rows.items() for task, hits in enumerate(counts)
    ]
    text = "\n".join(["suite,method,task,seed,samples,correct,total", *lines])
    (folder / suite).mkdir()
    (folder / suite / "methods.json").write_text('{"several": []}')
    (folder / suite / "scores.csv").write_text(f"{text}\n")
    return folder / suite / "scores.csv"


def test_orders_are_compared_by_kendalls_tau(tmp_path: Path):
    """Three merges of which the second suite reverses one pair, tau = (2 - 1) / 3; floor and ceiling do not count."""
    right = {"first": {"a": 10, "b": 20, "c": 30, "zeroshot": 90}, "second": {"a": 20, "b": 10, "c": 40, "zeroshot": 0}}
    paths = [
        write_accuracies(tmp_path, suite, {name: [hits] * 2 for name, hits in counts.items()})
        for suite, counts in right.items()
    ]
    sentence = readme.compare_orders(*paths)
    assert "The order of 3 merges on first and on second" in sentence
    assert "τ = 0.33, 95 % interval [0.33, 0.33]" in sentence
    assert "least for `b` -10.0" in sentence


def test_the_interval_of_an_order_is_a_jackknifes_over_tasks(tmp_path: Path):
    rng, steps = np.random.default_rng(376), 10 * np.arange(1, 7)[:, None]
    tables = [steps + rng.integers(-spread, spread, (6, 5)) for spread in (8, 25)]
    paths = [
        write_accuracies(tmp_path, suite, dict(zip("abcdef", table.tolist(), strict=True)))
        for suite, table in zip(("first", "second"), tables, strict=True)
    ]
    without = [kendalltau(*(np.delete(table, task, 1).sum(1) for table in tables)).statistic for task in range(5)]
    tau = kendalltau(*(table.sum(1) for table in tables)).statistic
    half = t.ppf(0.975, 4) * np.sqrt(4 / 5 * np.sum((without - np.mean(without)) ** 2))
    assert -1 < tau - half < tau + half < 1
    expected = f"τ = {tau:.2f}, 95 % interval [{tau - half:.2f}, {tau + half:.2f}] over tasks"
    assert expected in readme.compare_orders(*paths)


def test_every_kind_of_benchmark_has_a_result():
    kinds = {path.name.split("-")[0] for path in RESULTS.glob("*.json")}
    assert kinds >= {"against_public", "calibration_step", "evaluation", "data_free", "growth", "full_size"}


def test_the_readme_stays_short():
    content = FRONT.read_bytes()
    assert content.count(b"\n") <= 180
    assert len(content) <= 12 * 1024


def anchors(path: Path) -> set[str]:
    """The ids that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> Iterator[str]:
    """The targets of a page's links, images included."""
    text = FENCED.sub("", path.read_text("utf-8"))
    yield from re.findall(r"(?<!`)\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|href)="([^"]+)"', text)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str):
    page = PAGES[name]
    for link in links(page):
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if "://" in link:
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_leads_to_every_page():
    linked = {link.partition("#")[0] for link in links(FRONT)}
    assert {*PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("name", PAGES)
def test_targets_of_make_exist(name: str):
    targets = {*re.findall(r"^([\w-]+):", (readme.ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)}
    text = PAGES[name].read_text("utf-8")
    code = [*FENCED.findall(text), *re.findall(r"`[^`\n]+`", FENCED.sub("", text))]
    named = {target for part in code for target in re.findall(r"(?<![\w-])make ([a-z-]+)", part)}
    assert named <= targets


def test_the_method_of_the_readme_averages():
    (source,) = re.findall(r"```python\n(.*?)```", FRONT.read_text("utf-8"), re.DOTALL)
    method: dict = {}
    exec(compile(source, "scaled_average.py", "exec"), method)
    coefficients = method["merge"](toy.task_vectors(), method["Params"]())
    assert torch.equal(coefficients, torch.full((3, len(toy.GROUPS)), 1 / 3, dtype=torch.float64))


@pytest.fixture
def front(tmp_path: Path) -> Path:
    """A folder with the documents and the files that their points cite, and a folder in it for every kept run."""
    cited = {f"reports/studies/{readme.SUITE}/sentences.md": f"reports/studies/{readme.SUITE}/sentences.md"}
    cited |= {
        f"reports/methods/{name}": f"reports/{name}"
        for name in (
            f"tables/{readme.SUITE}-overview.md",
            f"tables/{readme.SUITE}-sentences.md",
            f"tables/{readme.SUITE}.csv",
            f"evidence/suites/{readme.SUITE}/scores.csv",
            f"evidence/suites/{readme.SUITE}/methods.json",
        )
    }
    for name in ("scores.csv", "methods.json"):
        source = f"reports/lora/evidence/suites/{readme.KEPT['lora']}/{name}"
        cited[source] = source
    for run, suite in readme.KEPT.items():
        kept = [f"tables/{suite}-{part}.md" for part in ("overview", "sentences")]
        kept += [f"studies/{suite}/sentences.md"] * (readme.ROOT / f"reports/{run}/studies/{suite}").is_dir()
        for name in kept:
            source, copy = f"reports/{run}/{name}", tmp_path / run / "reports" / name
            cited[source] = source
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(readme.ROOT / source, copy)
        (tmp_path / run / "params.yaml").write_text(f"suites: [{suite}]\n")
    for source, target in {**cited, **{name: name for name in (*PAGES, "params.yaml", SUITE)}}.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(readme.ROOT / source, tmp_path / target)
    for folder in ("pipeline/methods", "benchmarks/results"):
        shutil.copytree(readme.ROOT / folder, tmp_path / folder)
    for path in ("pipeline/report/collect.py", "pipeline/steps/svc.py", "pipeline/steps/surgery.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(readme.ROOT / path, tmp_path / path)
    return tmp_path


def test_a_point_on_text_is_held_to_the_run_on_text(front: Path):
    page = front / "README.md"
    page.write_text(page.read_text().replace("*[Results](docs/results.md)*\n2. ", "*[Text](docs/text.md)*\n2. ", 1))
    assert all(error.endswith("is not in the sentences on Text") for error in find_errors(front))
    assert any("names no part of the studies: Text" in error for error in audited.check(gather(front), {}).wrong)
    page.write_text(page.read_text().replace("+0.00 points", "+77.13 points", 1))
    assert any("77.13" in error and error.endswith("sentences on Text") for error in find_errors(front))


def test_a_study_of_a_kept_run_goes_by_the_name_of_the_run(front: Path):
    page = front / "docs/theory.md"
    text = page.read_text()
    assert "*Language models, Language models: Language*" in text
    page.write_text(text.replace("models: Language*", "models, Language*"))
    assert any("names no part of the studies: Language models, " in error for error in find_errors(front))


def find_errors(root: Path) -> tuple[str, ...]:
    """The messages of the audit of the documents."""
    return audited.check(gather(root), {run: gather(root / run) for run in readme.KEPT}).wrong


@pytest.mark.parametrize(("name", "least"), [("README.md", 12), ("docs/studies.md", 30)])
def test_numbers_in_points_are_in_the_files_they_cite(front: Path, name: str, least: int):
    """The last digit of every number is changed; by chance, a few are then another number of the files."""
    assert find_errors(front) == []
    path = front / name
    text = path.read_text("utf-8")
    points = text[text.index(POINTS[name]) :]
    points = points[: points.index("\n## ", 1)]
    altered, count = re.subn(r"(\d+\.\d*)(\d)", lambda match: match[1] + str((int(match[2]) + 1) % 10), points)
    path.write_text(text.replace(points, altered), "utf-8")
    caught = [line for line in find_errors(front) if "is not in the sentences on" in line]
    assert count > least
    assert 0.8 * count < len(caught) <= count


@pytest.mark.parametrize(
    ("name", "old", "new", "why"),
    [
        ("docs/studies.md", "*Robustness*", "*Elsewhere*", "names no part of the studies: Elsewhere"),
        ("README.md", "[Results](docs/results.md)*\n2.", "\n2.", "names no part of the studies: "),
        (
            "README.md",
            "[Results](docs/results.md)*\n2.",
            "[Flatness](docs/results.md)*\n2.",
            "in the sentences on Flatness",
        ),
        (
            "README.md",
            "64 unlabelled examples per task",
            "32 unlabelled examples per task",
            "README.md: scales chosen on 32",
        ),
        ("docs/results.md", "WUDI-Merging 53.9", "WUDI-Merging 54.9", "docs/results.md: WUDI-Merging 54.9"),
        ("docs/results.md", "<!-- /results -->", "", "the block results stands in no document, not in one"),
        (
            "docs/knobs.md",
            "# Knobs\n",
            "# Knobs\n<!-- speed -->\n9\n<!-- /speed -->\n",
            "nothing makes the block speed",
        ),
        ("README.md", "(−0.02 points", "(+0.02 points", "README.md: +0.02 in"),
        ("README.md", "| SAMerging | 88.2", "| SAMerging | 88.3", "README.md, headline: “"),
        (
            "README.md",
            "<!-- /headline -->",
            "Or 99.9.\n\n<!-- /headline -->",
            "README.md, headline: “",
        ),
    ],
)
def test_statements_that_the_files_contradict_are_named(front: Path, name: str, old: str, new: str, why: str):
    path = front / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    assert why in "; ".join(find_errors(front))
