"""The audit of studies: a report made by other code holds to the digit; every planted fraud is named."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline import methods, page, statistics, store, tables
from pipeline.audit import claimed, lock, resampled, rows, studies
from pipeline.audit.claimed import Counted, Excluding, Gain, Number, Side, Spread, Won
from pipeline.audit.evidence import gather, stamp
from pipeline.audit.finding import Finding, Tally
from pipeline.page import Grid, Link, Page, Prose, Section
from pipeline.sections import texts
from pipeline.studies._report import STUDIES, write
from pipeline.studies.replicates import COLUMNS
from pipeline.trial import SCORES
from tests import test_study_replicates, toy

pytestmark = pytest.mark.long

TASKS, SIZES, SEEDS, BUDGETS = ("a", "b"), (40, 33), (0, 1, 2), (1, 4)
TITLES = {"distillation": "Distillation", "samerging": "SAMerging"}
RIGHT = {("distillation", 1): 0.5, ("samerging", 1): 0.55, ("distillation", 4): 0.8, ("samerging", 4): 0.9}
FOLDER = "reports/studies/s"
PAIR = "SAMerging minus distillation"


def answers() -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """{(method, k): {task: bool [S, n]}}: images differ in difficulty, so that methods err on the same ones."""
    rng = np.random.default_rng(3)
    hard = {task: rng.random(size) for task, size in zip(TASKS, SIZES, strict=True)}
    return {
        setting: {task: share > own + 0.2 * rng.normal(size=(len(SEEDS), len(own))) for task, own in hard.items()}
        for setting, share in RIGHT.items()
    }


def spread(right: dict[str, np.ndarray]) -> str:
    means = 100 * np.mean([own.mean(1) for own in right.values()], axis=0)
    return f"{means.mean():.1f} ± {means.std(ddof=1):.1f}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study of data efficiency whose differences are those of `pipeline.statistics`."""
    root, right = tmp_path_factory.mktemp("made"), answers()
    store.write_text(root / "pipeline/suites/s.yaml", "tasks: [a, b]\n")
    store.write_csv(root / "reports/tables/s.csv", ("method", "title", "group"), [(*one, "") for one in TITLES.items()])
    header = ("suite", "method", "task", "seed", "samples", "correct", "total")
    scored = [("s", "samerging", task, 0, 4, 1, size) for task, size in zip(TASKS, SIZES, strict=True)]
    store.write_csv(root / "reports/scores/s.csv", header, scored)
    found = [
        ("", k, "s", method, task, seed, k, int(own[at].sum()), own.shape[1], np.packbits(own[at]).tobytes().hex())
        for (method, k), each in right.items()
        for at, seed in enumerate(SEEDS)
        for task, own in each.items()
    ]
    store.write_csv(root / FOLDER / "efficiency.csv", SCORES, found)
    drawn = statistics.resample(right, dict.fromkeys(right, SEEDS), 2_000)

    def minus(one: tuple[str, int], other: tuple[str, int]) -> statistics.Difference:
        return statistics.difference(drawn, one, other)

    def edges(one: statistics.Interval) -> str:
        return f"[{100 * one.low:+.2f}, {100 * one.high:+.2f}]"

    def shown(one: statistics.Difference) -> str:
        return f"{100 * one.average.value:+.2f} {edges(one.average)}"

    gains = {k: minus(("samerging", k), ("distillation", k)) for k in BUDGETS}
    losses = {name: minus((name, 1), (name, 4)) for name in TITLES}
    accuracies = [
        (str(k), *(spread(right[name, k]) for name in TITLES), shown(one), edges(one.like), f"{one.won} : {one.lost}")
        for k, one in gains.items()
    ]
    lost = [("1", *(shown(one) for one in losses.values()))]
    columns = (*TITLES.values(), PAIR, "Tasks like these", "Won : lost")
    clear = [one.average.low > 0 or one.average.high < 0 for one in gains.values()]
    each = "; ".join(f"k = {k}: {shown(one)}" for k, one in gains.items())
    said = [
        f"{TITLES[name]}, unlabelled images per task: no number below 4 does so well that its interval includes zero; "
        "every number below 4 loses a point or more (n = 3 seeds)."
        for name in TITLES
    ]
    said += [
        f"{PAIR}, points with k images per task: {each}. {sum(clear)} of 2 intervals exclude zero, where chance alone "
        "would give about 0.1 (n = 3 seeds).",
        "Intervals are of 95 %, of 2,000 bootstrap draws: over the 73 test images of these 2 tasks and 3 seeds.",
        "Nobody measured that 7 is a lucky number.",
    ]
    printed = {
        "accuracies": texts("", "Images per task", columns, {"": accuracies}, columns),
        "losses": texts("", "Images per task", columns[:2], {"": lost}, columns[:2]),
    }
    blocks: list[page.Block] = [Prose((), tuple(said))]
    for name, table in printed.items():
        stem, body = (
            f"efficiency-table-{name}",
            [(title, *(c.mean for c in cells)) for title, cells in table.sections[0][1]],
        )
        store.write_csv(root / FOLDER / f"{stem}.csv", (table.head, *table.columns), body)
        store.write_text(root / FOLDER / f"{stem}.md", tables.markdown(table))
        store.write_text(root / FOLDER / f"{stem}.tex", tables.latex(table, stem))
        blocks.append(Grid(stem, name, table))
    whole = Page("Studies", (), (Section("efficiency", "Data efficiency", tuple(blocks)),), (Link("x", "x"),))
    store.write_text(root / FOLDER / "index.html", page.render(whole, toy.ROOT / "pipeline/templates"))
    store.write_text(root / FOLDER / "sentences.md", f"### Data efficiency\n\n{tables.bullets(said)}")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return shutil.copytree(made, tmp_path / "root")


def audited(root: Path) -> Finding:
    return next(one for one in studies.check(gather(root), "s") if one.name == "s: efficiency")


def replaced(root: Path, name: str, pattern: str, new: str | Callable[[re.Match], str], count: int = 1) -> None:
    path = root / FOLDER / name
    changed = re.sub(pattern, new, path.read_text(), count=count, flags=re.MULTILINE)
    assert changed != path.read_text(), f"{name} has no {pattern}"
    path.write_text(changed)


def test_a_true_report_holds_to_the_digit_and_what_is_not_read_is_named(made: Path):
    found = audited(made)
    assert found.wrong == ()
    assert found.compared > 24 + 3 * (2 * 6 + 3) + 4
    assert found.absent == ("numbers of “Nobody measured that 7 is a lucky number.…”", studies.UNREAD)
    others = [one for one in studies.check(gather(made), "s") if one is not found and one.name != "s: efficiency"]
    assert {one.verdict for one in others} == {"none"}
    assert len(others) == len(STUDIES) - 1


def test_every_study_of_the_report_is_audited():
    assert [studies.name(view) for view in studies.STUDIES] == [*STUDIES]


def flipped(match: re.Match) -> str:
    """One bit of the answers is another."""
    return f"{match[1]}{int(match[2], 16) ^ 8:x}"


def more(match: re.Match) -> str:
    return f"{match[1]}{(int(match[2]) + 1) % 10}"


def counted(match: re.Match) -> str:
    """One right answer more, in the count and in the bits."""
    bits = int(match[4], 16)
    bit = next(1 << at for at in range(7, 160) if not bits >> at & 1)
    return f"{match[1]}{int(match[2]) + 1}{match[3]}{bits | bit:0{len(match[4])}x}"


ROWS, SHOWN, LOST = "efficiency.csv", "efficiency-table-accuracies", "efficiency-table-losses"
COUNT, LAST = r"^(,1,s,samerging,a,0,1,)(\d+)(,40,)(\w+)", r"^(,1,s,samerging,{},0,1,\d+,\d+,\w*)(\w)$"
SAYS, OTHER_BITS = "its rows give", r"row 8: \d+ correct, but `right` has \d+ ones"
ENOUGH = "every number below 4 loses a point or more"
FRAUDS = {
    "a count": (ROWS, COUNT, lambda m: f"{m[1]}{int(m[2]) - 1}{m[3]}{m[4]}", OTHER_BITS),
    "a bit": (ROWS, LAST.format("a"), flipped, OTHER_BITS),
    "a count and its bit": (ROWS, COUNT, counted, rf"accuracies\.csv: 1, SAMerging is “.*”: {SAYS}"),
    "a total": (ROWS, ",40,", ",39,", "row 2: a scored on 39 images, the suite has 40"),
    "answers to no image": (ROWS, LAST.format("b"), flipped, "40 bits of `right` do not fit 33 images"),
    "half a count": (ROWS, r",(\d+),40,", r",\1.5,40,", "counts must be whole"),
    "a missing row": (ROWS, r"^,4,s,samerging,b,1,.*\n", "", "4 samerging 1: tasks a, expected each of a, b once"),
    "a missing setting": (ROWS, r"^,4,s,samerging,.*\n", "", "not those of the study: no rows", 0),
    "a cell": (f"{SHOWN}.csv", r"^(1,\d+\.)(\d)", more, f"accuracies.csv: 1, Distillation is “.*”: {SAYS}"),
    "a missing column": (f"{LOST}.csv", "SAMerging", "X", "losses.csv lacks SAMerging"),
    "a cell of Markdown": (f"{LOST}.md", r"(^\| 1 \| -\d+\.\d)(\d)", more, "losses.md: 1, Distillation is"),
    "a cell of LaTeX": (f"{SHOWN}.tex", r"(^4 & \d+\.)(\d)", more, "accuracies.tex: 4, Distillation is"),
    "a cell of the page": ("index.html", r"(<td[^>]*>\d+\.)(\d)", more, "the page has no table equal to"),
    "an end of an interval": (
        f"{SHOWN}.csv",
        r"(\d \[[+-]\d+\.\d)(\d)",
        more,
        f"1, {PAIR} is “.*”: {SAYS} the interval",
    ),
    "an end on like tasks": (
        f"{SHOWN}.csv",
        r'(,"\[[+-]\d+\.\d)(\d)',
        more,
        f"Tasks like these is “.*”: {SAYS}",
    ),
    "tasks won": (f"{SHOWN}.md", r"(\| )(\d)(?= : \d)", more, "Won : lost is “.*”: its answers give"),
    "a number of a sentence": ("sentences.md", r"(k = 4: \+\d+\.\d)(\d)", more, f"“{PAIR}.*”: {SAYS}"),
    "a verdict": ("sentences.md", r"\d of 2 intervals exclude", "7 of 2 intervals exclude", f"“7”: {SAYS}"),
    "few images": ("sentences.md", ENOUGH, "from 1 on less than a point is lost (1: +9 points)", f"{SAYS} None"),
    "seeds": ("sentences.md", "and 3 seeds", "and 9 seeds", "its rows have 3 of seeds"),
    "another page": ("index.html", "73 test images", "93 test images", "the page does not say “Intervals are of 95 %"),
}


@pytest.mark.parametrize("name", FRAUDS)
def test_a_fraud_is_named(root: Path, name: str):
    file, pattern, new, why, *count = FRAUDS[name]
    replaced(root, file, pattern, new, *count)
    found = audited(root)
    assert found.verdict == "FAIL"
    assert re.search(why, " # ".join(found.wrong)), found.wrong


def test_rows_without_answers_are_said_to_have_none(root: Path):
    replaced(root, "efficiency.csv", r",\w+$", "", count=0)
    found = audited(root)
    assert "answers to single images (`right` of efficiency.csv), and what is drawn from them" in found.absent
    assert any("Tasks like these" in one for one in found.absent)


def test_methods_without_a_title_are_named_and_not_judged(root: Path):
    store.write_csv(root / "reports/tables/s.csv", ("method", "title", "group"), [("samerging", "SAMerging", "")])
    found = audited(root)
    assert (found.verdict, found.absent) == ("ok", ("title of distillation: tables and sentences",))


def test_a_report_without_studies_has_nothing_to_check(root: Path):
    shutil.rmtree(root / "reports/studies")
    (found,) = studies.check(gather(root), "s")
    assert (found.verdict, found.absent) == ("none", (FOLDER,))


def test_rows_are_restored_to_what_the_lock_holds(tmp_path: Path):
    """A study of one file and one of a folder; a table of the report is no rows."""
    for name in ("one", "two-x", "two-y", "two-table-z"):
        store.write_text(tmp_path / f"{FOLDER}/{name}.csv", f"{name}\n")
    folder = lock.directory({f"{name}.csv": stamp(f"two-{name}\n".encode()) for name in "xy"})
    outs = {"data/studies/s/one.csv": stamp(b"one\n").md5, "data/studies/s/two": f"{stamp(folder).md5}.dir"}
    stage = {"cmd": "run", "outs": [*outs]}
    held = {"cmd": "run", "outs": [{"path": path, "md5": md5} for path, md5 in outs.items()]}
    store.write_json(tmp_path / "dvc.yaml", {"stages": {"study": stage}})
    store.write_json(tmp_path / "dvc.lock", {"stages": {"study": held}})
    store.write_text(tmp_path / "params.yaml", "seeds: [0]\n")

    def restored() -> Finding:
        return next(one for one in lock.check(gather(tmp_path)) if one.name == "lock: scores, records")

    assert (restored().verdict, restored().compared) == ("ok", 3)
    store.write_text(tmp_path / f"{FOLDER}/two-y.csv", "other\n")
    store.write_text(tmp_path / f"{FOLDER}/three.csv", "more\n")
    assert restored().wrong == (
        "data/studies/s/three.csv stands in reports/, but no stage of dvc.lock wrote it",
        "data/studies/s/two/ as reports/ has it is not what its stage wrote",
    )


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (3, 5)])
def test_intervals_over_tasks_are_those_of_the_library(shape: tuple[int, int]):
    values = np.random.default_rng(0).normal(size=shape)

    def mean(drawn: statistics.Drawn) -> np.ndarray:
        return values[drawn["seeds"][:, :, None], drawn["tasks"][:, None, :]].mean(axis=(1, 2))

    draws = statistics.pigeonhole(mean, dict(zip(("seeds", "tasks"), shape, strict=True)), 10_000)
    gain = Gain(values)
    assert resampled.draw([gain])[gain].like == pytest.approx(np.quantile(draws, (0.025, 0.975)), abs=1e-9)


def test_seeds_that_two_methods_do_not_share_are_drawn_apart_as_in_the_library():
    rng, sizes = np.random.default_rng(1), (30, 21)
    right = {name: {task: rng.random((seeds, size)) < share for task, size in zip(TASKS, sizes, strict=True)}
             for name, seeds, share in (("one", 4, 0.6), ("other", 3, 0.5))}  # fmt: skip
    drawn = statistics.resample(right, {"one": range(4), "other": range(3)}, resampled.ANSWERED)
    expected = statistics.difference(drawn, "one", "other")
    answers = tuple(
        (right["one"][task][:, None].astype(float) - right["other"][task]).reshape(12, -1) for task in TASKS
    )
    gain = Gain(100 * np.stack([each.mean(1) for each in answers], axis=1), answers, axes=(4, 3))
    intervals = resampled.draw([gain])[gain]
    for interval, by_library in ((intervals.these, expected.average), (intervals.like, expected.like)):
        assert interval == pytest.approx((100 * by_library.low, 100 * by_library.high), abs=1e-9)
    assert intervals.won == (expected.won, expected.lost)


def test_a_sure_difference_has_a_point_for_an_interval():
    gain = Gain(np.full((2, 3), 50.0), tuple(np.tile([[0.5]], (2, size)) for size in (4, 9, 1)))
    drawn = resampled.draw([gain])
    found = drawn[gain]
    assert (found.like, found.these, found.won) == ((50.0, 50.0), (50.0, 50.0), (3, 0))
    for text, problem in (
        ("+50.0 points [+50.0, +50.0], which excludes zero", ""),
        ("+50.0 points [+50.0, +50.0], which includes zero", "its interval excludes zero"),
        ("+50.0; better on 3 and worse on 0 of 3 tasks", "it has no interval"),
        ("+50.0 [+50.0, +50.0]; better on 3 and worse on 0 of 4 tasks", "it has other tasks"),
        ("+50.0 [+50.0, +50.0]; better on 2 and worse on 0 of 3 tasks", "its answers give 3 : 0"),
        ("+50.0 [+50.0, +50.0], as in 3 papers", "it has a number that cannot be read"),
    ):
        assert gain.problem(text, drawn) == problem
    assert Excluding([gain]).problem("1", drawn) == ""
    assert Side(gain, excludes=False).problem("", drawn) == "its interval excludes zero"
    assert Won(gain).problem("2 : 0", drawn) == "its answers give 3 : 0"


def test_one_run_of_one_task_has_no_interval():
    gain = Gain(np.array([[2.0]]))
    drawn = resampled.draw([gain])
    assert gain.problem("+2.0 points, one run, which has no interval", drawn) == ""
    assert gain.problem("+2.0 points [+1.0, +3.0]", drawn) == "one run has no interval"


@pytest.mark.parametrize(
    ("expected", "text", "right"),
    [
        (Number(0.00053249, 3), "+0.000532", True),
        (Number(0.00053251, 3), "+0.000532", False),
        (Number(12345.0, 4), "1.234e+04", True),
        (Number(0.2, 4), "0.2", True),
        (Number(0.24, 4), "0.2", False),
        (Spread(np.array([1.0, 3.0])), "2.0 ± 1.4", True),
        (Spread(np.array([1.0, 3.0])), "2.0", False),
        (Spread(np.array([2.0, 2.0])), "2.0", True),
        (Spread(np.array([2.0])), "2.0 ± 0.0", False),
        (Counted({"seed": 1, "image": 7449}), "1 seed, 7,449 test images", True),
        (Counted({"seed": 1}), "2 seeds", False),
        (Counted({"seed": 1}), "", False),
    ],
)
def test_texts_are_held_against_numbers(expected: claimed.Expected, text: str, right: bool):
    assert (expected.problem(text, {}) == "") is right


def test_answers_are_read_bit_by_bit(made: Path):
    study, own = rows.read(gather(made), "s", "efficiency", TASKS), answers()["samerging", 4]
    found = study.runs(method="samerging", k=4)
    assert found.seeds == SEEDS
    for task, bits in zip(TASKS, found.answers, strict=True):
        assert (bits == own[task]).all()
    assert found.values == pytest.approx(100 * np.stack([own[task].mean(1) for task in TASKS], axis=1))


def write_replicates(root: Path, scores: list[tuple]) -> None:
    """The report of a study of replicates with these rows, and what the audit reads beside it."""
    store.write_text(root / "pipeline/suites/s.yaml", "tasks: [a, b]\n")
    titles = [(name, methods.load(name).TITLE, "") for name in methods.names()]
    store.write_csv(root / "reports/tables/s.csv", ("method", "title", "group"), titles)
    store.write_csv(root / "replicates.csv", COLUMNS, scores)
    header = ("suite", "method", "task", "seed", "samples", "correct", "total")
    totals = dict(zip(test_study_replicates.TASKS, test_study_replicates.SIZES, strict=True))
    fixed = {name: [("s", name, task, None, 0, right, size) for task, size in totals.items()]
             for name, right in (("zeroshot", 30), ("individual", 60))}  # fmt: skip
    store.write_csv(root / "reports/scores/s.csv", header, fixed["individual"])
    for name, rows_of in fixed.items():
        store.write_csv(root / f"{name}.csv", header, rows_of)
    store.write_json(root / "record.json", {"params": {"calibration_split": "train", "evaluation_split": "test"}})
    files = ({"replicates": root / "replicates.csv"}, [root / f"{name}.csv" for name in fixed], [root / "record.json"])
    look = SimpleNamespace(dpi=50, width=6.5, decimals=1)
    write(*files, toy.ROOT / "pipeline/templates", look, root / FOLDER)


def replicates_of(root: Path) -> Finding:
    """What the audit says of the study of replicates."""
    return next(finding for finding in studies.check(gather(root), "s") if finding.name == "s: replicates")


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of replicates that move all methods together."""
    root, made_up = tmp_path_factory.mktemp("replicated"), test_study_replicates.made_up(spread=0.03)
    changed = made_up.astype({"seed": "Int64"}).astype(object).where(made_up.notna(), None)
    write_replicates(root, [*changed.itertuples(index=False, name=None)])
    return root


def test_replicates_hold_to_the_digit_and_no_other_number_would_do(replicated: Path):
    evidence, view = gather(replicated), studies.replicates
    tally = Tally("replicates", "")
    claims = [claim for _, claim in studies.claims({view: tally}, evidence, "s")]
    assert tally.wrong == []
    assert tally.absent == [studies.UNREAD]
    assert len(claims) > 3 * (6 * 8 + 4 * 5) + 3 * 4 + 3 * 4
    drawn = resampled.draw([gain for claim in claims for gain in claimed.gains(claim.expected)])
    for claim in claims:
        assert claim.expected.problem(claim.text, drawn) == "", claim
        digits = claim.text.replace("95 %", "")
        other = re.sub(r"\d", lambda match: str((int(match[0]) + 1) % 10), digits, count=1)
        if other != digits:
            assert claim.expected.problem(other, drawn), claim


FACTS, EXPERTS = "Facts about the methods are", "Facts about these experts at most are"


@pytest.mark.parametrize(
    ("file", "pattern", "new", "why"),
    [
        ("replicates.csv", r"^(3,s,tsv_m,a,,6,)(\d+)", more, "correct, but `right` has|of 80 correct"),
        ("replicates.csv", r"^2,s,samerging,b,1,.*\n", "", "samerging 2 1: tasks a, expected each of a, b once"),
        ("replicates-table-pairs.csv", "5 of 5", "4 of 5", "Same sign is “4 of 5”: it should be “5 of 5”"),
        ("sentences.md", f"{FACTS} 3", f"{FACTS} 4", "“4”: its rows give 3"),
        ("sentences.md", r"\d replicates and 2 seeds", "9 replicates and 2 seeds", "its rows have 5 of replicates"),
        ("sentences.md", r"(against )(\d)", more, "“.*”: its rows give"),
    ],
)
def test_a_fraud_of_replicates_is_named(replicated: Path, tmp_path: Path, file: str, pattern: str, new, why: str):
    root = shutil.copytree(replicated, tmp_path / "root")
    replaced(root, file, pattern, new)
    finding = replicates_of(root)
    assert re.search(why, " # ".join(finding.wrong)), finding.wrong


def test_an_order_in_the_wrong_sentence_is_named(replicated: Path, tmp_path: Path):
    """Each list stands in the other's sentence."""
    root = shutil.copytree(replicated, tmp_path / "root")
    names = {FACTS: EXPERTS, EXPERTS: FACTS}
    replaced(root, "sentences.md", "|".join(names), lambda match: names[match[0]], count=0)
    finding = replicates_of(root)
    wrong = " # ".join(finding.wrong)
    assert "its interval includes zero" in wrong
    assert "its interval excludes zero" in wrong


def test_public_experts_leave_nothing_to_recompute(tmp_path: Path):
    write_replicates(tmp_path, [])
    finding = replicates_of(tmp_path)
    assert finding.wrong == ()


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the repository's own report has of studies, and what the audit reads beside it."""
    root = tmp_path_factory.mktemp("committed")
    for name in ("reports/studies", "reports/tables", "reports/scores", "pipeline/suites", "pipeline/methods"):
        shutil.copytree(toy.ROOT / name, root / name, ignore=shutil.ignore_patterns("*.p??", "*.svg", "__pycache__"))
    return root


def test_every_number_of_the_published_studies_is_read_and_no_other_would_do(committed: Path):
    """Each printed text is right, and is wrong with another leading digit."""
    evidence = gather(committed)
    for folder in sorted((committed / "reports/studies").iterdir()):
        tallies = {view: Tally(studies.name(view), "") for view in studies.STUDIES}
        found = [claim for _, claim in studies.claims(tallies, evidence, folder.name)]
        assert not [text for tally in tallies.values() for text in tally.wrong]
        assert not [text for tally in tallies.values() for text in tally.absent if "numbers of “" in text]
        drawn = resampled.draw([gain for claim in found for gain in claimed.gains(claim.expected)])
        for claim in found:
            assert claim.expected.problem(claim.text, drawn) == "", claim
            digits = claim.text.replace("95 %", "")
            other = re.sub(r"\d", lambda match: str((int(match[0]) + 1) % 10), digits, count=1)
            if other != digits:
                assert claim.expected.problem(other, drawn), claim
