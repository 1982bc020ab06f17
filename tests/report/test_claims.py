"""Claims follow from the intervals and the number of comparisons."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.report import tables
from pipeline.report.view import Look, View
from pipeline.report.views import comparisons, profiles, questions
from pipeline.statistics.accuracy import GAP, parse_scores, tabulate_runs
from pipeline.statistics.intervals import Comparison, Interval, mark_methods

TITLES = {"zeroshot": "Zero-shot", "individual": "Experts", "ties": "TIES", "adamerging": "AdaMerging"}
TITLES |= {"distillation": "Distillation", "samerging": "SAMerging"}
GROUPS = {"Floor": ["zeroshot", "individual"], "Data-free": ["ties"], "More": []}
GROUPS |= {"Calibrated": ["adamerging", "distillation", "samerging"]}
TASKS = ("a", "b")
SHARES = {"zeroshot": 0.2, "individual": 0.9, "ties": 0.5, "adamerging": 0.65, "distillation": 0.7, "samerging": 0.7}
EXAMPLES = 400


def first_examples_right(share, count):
    """Mark the first examples right, with one example more for every further seed."""
    return np.array([np.arange(EXAMPLES) < round(share * EXAMPLES) + seed for seed in range(count)])


@pytest.fixture(scope="module")
def made():
    """Answers, their comparisons and the runs of the table."""
    shares = {**SHARES, "ties-rescaled": 0.6}
    seeds = {name: (0, 1) if name in (*GROUPS["Calibrated"], "ties-rescaled") else (-1,) for name in shares}
    correct = {
        name: {task: first_examples_right(share - 0.1 * (task == "b"), len(seeds[name])) for task in TASKS}
        for name, share in shares.items()
    }
    lines = [
        f"s,{name},{task},{seed if seed >= 0 else ''},8,{hits.sum()},{EXAMPLES}"
        for name in SHARES
        for task, answers in correct[name].items()
        for seed, hits in zip(seeds[name], answers, strict=True)
    ]
    scored = parse_scores("\n".join(["suite,method,task,seed,samples,correct,total", *lines]), "test")
    marks = mark_methods(correct, seeds)
    evidence = SimpleNamespace(
        suite="s",
        tasks=TASKS,
        titles=TITLES,
        sections=GROUPS,
        marks=marks,
        runs=tabulate_runs(scored, TASKS),
        chosen=SimpleNamespace(names=[*SHARES], rescaled=("ties",)),
    )
    compared, scores = comparisons.compare_main(evidence), comparisons.interquartile_means(evidence)
    return SimpleNamespace(evidence=evidence, compared=compared, scores=scores)


def make_comparison(value, p, like):
    interval = Interval(np.array(value), np.array(value - 0.1), np.array(value + 0.1), np.array(p))
    similar = Interval(interval.value, np.array(like[0]), np.array(like[1]), np.array(p))
    tasks = Interval(*np.array([[0.1, 0.2, -0.3], [0.05, -0.1, -0.4], [0.2, 0.3, -0.2], [0.01] * 3]))
    return Comparison(interval, similar, tasks, p, (3, 1), 1000)


@pytest.mark.parametrize(
    ("value", "p", "like", "words"),
    [
        (0.2, 0.049, (0.1, 0.3), "better on these tasks and on tasks like these"),
        (0.2, 0.049, (-0.1, 0.3), "better on these tasks"),
        (-0.2, 0.001, (-0.3, -0.1), "worse on these tasks and on tasks like these"),
        (-0.2, 0.001, (-0.3, 0.0), "worse on these tasks"),
        (0.2, 0.05, (0.1, 0.3), "no difference shown"),
    ],
)
def test_a_verdict_follows_p_and_the_interval_for_tasks_like_these(value, p, like, words):
    assert comparisons.verdict(make_comparison(value, p, like)) == words


def test_a_task_is_won_or_lost_if_its_interval_excludes_zero():
    comparison = make_comparison(0.2, 0.01, (0, 1))
    assert (comparison.won, comparison.lost) == (1, 1)


def test_claims_compare_with_the_closest_rivals_and_with_all_methods(made):
    sentences = comparisons.claims(made.evidence, made.compared, 1)
    gap, free, entropy, twin, every, basis = sentences
    assert gap.startswith("SAMerging closes 71.6 ± 0.3 % of the gap between zero-shot (15.0 %)")
    assert gap.endswith("(n = 2 seeds).")
    assert free.startswith("SAMerging minus TIES, the best data-free method: +20.12 points, 95 % interval [+17.")
    assert "(n = 2 seeds against 1 run, 800 test examples): SAMerging is better on these tasks" in free
    assert entropy.startswith("SAMerging minus AdaMerging: +5.00 points")
    assert "(n = 2 seeds each, 800 test examples)" in entropy
    assert "+0.00 points, 95 % interval [+0.00, +0.00] on these tasks" in twin
    assert twin.endswith("these runs show no difference.")
    assert every.startswith("Of the 5 other rows of the table, SAMerging is better than 3 and worse than 1 (Experts);")
    assert "no difference is shown to 1 (Distillation)" in every
    assert "Holm's correction for 5 comparisons" in every
    assert "With 2 seeds intervals presume" in basis


def test_claims_leave_out_methods_that_did_not_run(made):
    compared = {"individual": made.compared["individual"]}
    sections = {**GROUPS, "Data-free": []}
    runs = made.evidence.runs.assign(**{GAP: np.nan})
    evidence = SimpleNamespace(titles=TITLES, sections=sections, runs=runs, marks=made.evidence.marks)
    sentences = comparisons.claims(evidence, compared, 1)
    assert len(sentences) == 2
    assert "worse than 1 (Experts); no difference is shown to 0." in sentences[0]
    assert comparisons.claims(made.evidence, {}, 1)[1:] == []


def test_the_table_has_a_row_per_method_and_dashes_for_samerging(made):
    table = comparisons.comparison_table(made.evidence, made.compared, made.scores, 1)
    rows = {name: [cell.mean for cell in cells] for _, lines in table.sections for name, cells in lines}
    assert [title for title, _ in table.sections] == ["Floor", "Data-free", "Calibrated"]
    assert list(rows) == [TITLES[name] for names in GROUPS.values() for name in names]
    assert rows["SAMerging"][:-1] == ["–"] * 7
    assert rows["TIES"][0] == "+20.12"
    assert rows["Experts"][0] == "−19.88"
    assert rows["TIES"][4:7] == ["2 : 0", "1", "better on these tasks and on tasks like these"]
    assert rows["Experts"][-1] == "100.0"
    assert "over 2 tasks and 800 test examples" in table.caption
    assert "after Holm's correction for 5 comparisons" in table.caption
    assert r"\[" in tables.markdown(table)


def test_the_csv_has_every_task(made):
    text = comparisons.comparison_csv(made.evidence, made.compared, made.scores).splitlines()
    rows = {line.split(",")[0]: dict(zip(text[0].split(","), line.split(","), strict=True)) for line in text[1:]}
    assert float(rows["adamerging"]["a"]) == pytest.approx(5)
    assert float(rows["ties"]["difference"]) == pytest.approx(20.125)
    assert rows["ties"]["examples"] == "800"
    assert (rows["ties"]["seeds"], rows["ties"]["runs"]) == ("2", "1")
    assert (rows["samerging"]["difference"], rows["samerging"]["verdict"]) == ("", "")
    assert float(rows["samerging"]["iqm"]) == pytest.approx(100 * made.scores["samerging"], abs=1e-6)


def ask(*pairs):
    return questions.Question("name", "Does it?", pairs)


def test_a_question_is_answered_by_the_pairs_that_ran(made, monkeypatch):
    asked = ask(("distillation", "adamerging"), ("samerging", "ties-rescaled"), ("emr", "ties"))
    monkeypatch.setattr(questions, "QUESTIONS", (asked, ask(("emr", "ties"))))
    view = questions.view(made.evidence, Look(100, 6, 1))
    (sentence,) = view.sentences
    assert sentence.startswith("Does it? Distillation minus AdaMerging +5.00 points [+")
    assert "; SAMerging minus TIES (scale from KL) +10.00 points [" in sentence
    lines = view.tables["questions"].csv.splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    assert [(row["method"], row["other"]) for row in rows] == list(asked.pairs[:2])
    assert float(rows[0]["a"]) == pytest.approx(5)
    assert "Holm's correction for 2 comparisons" in view.tables["questions"].table.caption


def test_a_question_of_many_pairs_counts_verdicts(made, monkeypatch):
    others = ("zeroshot", "individual", "ties", "distillation")
    monkeypatch.setattr(questions, "QUESTIONS", (ask(*(("samerging", other) for other in others)),))
    (sentence,) = questions.view(made.evidence, Look(100, 6, 1)).sentences
    assert sentence == (
        "Does it? Of 4 comparisons, on these tasks: better in 2 (Zero-shot and TIES), worse in 1 (Experts), no "
        "difference shown in 1 (Distillation); +12.59 points on average."
    )


def test_without_any_of_its_methods_nothing_is_asked(made, monkeypatch):
    monkeypatch.setattr(questions, "QUESTIONS", (ask(("emr", "ties")),))
    assert questions.view(made.evidence, Look(100, 6, 1)) == View()


def test_an_interval_without_zero_that_shows_nothing_names_the_correction():
    pairs = [("a", "b"), ("a", "c")]
    compared = dict(
        zip(pairs, (make_comparison(0.2, 0.06, (-0.1, 0.3)), make_comparison(0.05, 0.9, (-1, 1))), strict=True)
    )
    text = questions.answer(ask(*pairs), pairs, compared, {name: name.upper() for name in "abc"}, 0)
    assert "A minus B +20 points [+10, +30], no difference shown after Holm's correction for 2 comparisons;" in text
    assert text.endswith("A minus C +5 points [−5, +15], no difference shown.")


def test_profiles_show_the_usual_methods_and_the_best_of_their_sections():
    means = {"average": 1, "ties": 3, "tsv_m": 2, "distillation": 4, "fisher": 5, "regmean": 2, "samerging": 3}
    free, learned = ["average", "tsv_m", "ties"], ["fisher", "regmean", "distillation", "samerging"]
    assert profiles.select_methods(means, [free, learned, []]) == [
        "average",
        "ties",
        "fisher",
        "distillation",
        "samerging",
    ]
