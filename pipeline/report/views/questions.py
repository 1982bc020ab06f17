"""Questions about methods that one comparison of two rows answers, or a few: a table, and a sentence for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.report.evidence import RESCALED, Evidence, format_csv
from pipeline.report.tables import Cell, Table
from pipeline.report.view import Look, Sheet, View
from pipeline.report.views.comparisons import NOTHING, SURE, bounds, in_points, interval_columns, verdict
from pipeline.report.words import count, listed, tested
from pipeline.statistics.intervals import Comparison, compare_pairs

ORDER = 15
CALIBRATED_SINGULAR_VALUES = ("average", "task_arithmetic", "ties", "dare", "iso_c", "iso_cts", "tsv_m")
FEW = 3
"""Comparisons whose numbers a sentence gives; of more it counts the verdicts."""

Pair = tuple[str, str]
"""A method and the one that it is compared with."""
LOW_RANK: tuple[Pair, ...] = (("do_merging_lora", "do_merging"), ("knots", "ties"), ("core_space", "tsv_m"))
"""Merges made for low-rank experts, and their plain counterparts."""


@dataclass(frozen=True)
class Question:
    """A question, and the comparisons that answer it."""

    name: str
    text: str
    pairs: tuple[Pair, ...]


QUESTIONS = (
    Question(
        "SVC",
        "Does SVC improve a merge at its published scale?",
        tuple((f"{name}-svc", name) for name in CALIBRATED_SINGULAR_VALUES),
    ),
    Question(
        "SVC, both scaled",
        "Does SVC improve it when both get their scale from unlabelled examples?",
        tuple((f"{name}-svc{RESCALED}", f"{name}{RESCALED}") for name in CALIBRATED_SINGULAR_VALUES),
    ),
    Question(
        "SVC or scale",
        "Does SVC, which sees no examples, reach the merge whose scale comes from unlabelled ones?",
        tuple((f"{name}-svc", f"{name}{RESCALED}") for name in CALIBRATED_SINGULAR_VALUES),
    ),
    Question(
        "Masks",
        "Do AdaRank's masks add anything to coefficients with the same objective?",
        (
            ("adarank", "adamerging"),
            ("adarank_kl", "distillation"),
        ),
    ),
    Question(
        "Objective",
        "What does KL to the experts change in the place of entropy?",
        (
            ("adarank_kl", "adarank"),
            ("distillation", "adamerging"),
        ),
    ),
    Question(
        "Hidden states",
        "Are Expert Merging's hidden states worth anything, and is Expert Merging worth more than distillation?",
        (
            ("expert_merging", "expert_merging_logits"),
            ("expert_merging", "distillation"),
        ),
    ),
    Question(
        "M-Loss",
        "Does the ranking by M-Loss beat a random one, and TIES with the same share of entries?",
        (
            ("m_ties", "m_ties_random"),
            ("m_ties", "ties_keep_80"),
            ("m_ties_keep_20", "ties"),
        ),
    ),
    Question("Norms", "Do norms of the weights differ from an average?", (("nan_weights", "average"),)),
    Question(
        "Ensembles",
        "How far is one merged model from the ensembles of all experts, and does the base help an ensemble?",
        (
            ("samerging", "feature_ensemble"),
            ("samerging", "logit_ensemble"),
            ("feature_ensemble_base", "feature_ensemble"),
        ),
    ),
    Question(
        "Low rank",
        "Do merges made for low-rank experts beat their plain counterparts, each at its published scale?",
        (*LOW_RANK, ("factor_average", "average")),
    ),
    Question(
        "Low rank, both scaled",
        "Do they when both get their scale from unlabelled examples?",
        tuple((f"{name}{RESCALED}", f"{other}{RESCALED}") for name, other in LOW_RANK),
    ),
)


def view(evidence: Evidence, look: Look) -> View:
    """Answer the questions whose methods ran; nothing without any."""
    titles = evidence.titles | {
        f"{name}{RESCALED}": f"{evidence.titles[name]} (scale from KL)" for name in evidence.chosen.rescaled
    }
    asked = {question: [pair for pair in question.pairs if titles.keys() >= {*pair}] for question in QUESTIONS}
    asked = {question: pairs for question, pairs in asked.items() if pairs}
    if not asked:
        return View()
    comparisons = compare_pairs(evidence.marks, [pair for pairs in asked.values() for pair in pairs])
    decimals, rows = look.decimals + 1, question_csv(evidence.tasks, asked, comparisons)
    table = question_table(evidence, asked, comparisons, titles, decimals)
    return View(
        sentences=tuple(answer(question, asked[question], comparisons, titles, decimals) for question in asked),
        tables={"questions": Sheet(table, "Questions that two rows answer", rows)},
    )


def answer(
    question: Question,
    pairs: Sequence[Pair],
    comparisons: Mapping[Pair, Comparison],
    titles: Mapping[str, str],
    decimals: int,
) -> str:
    """Answer a question in a sentence: every difference if they are FEW, else how many go which way."""
    if len(pairs) <= FEW:
        parts = []
        for pair in pairs:
            average, (method, other) = comparisons[pair].average, (titles[name] for name in pair)
            words = verdict(comparisons[pair])
            if words == NOTHING and (average.low > 0 or average.high < 0):
                words += f" after Holm's correction for {count(len(comparisons), 'comparison')}"
            parts.append(
                f"{method} minus {other} {in_points(average.value, decimals, '+')} points "
                f"{bounds(average, decimals, '+')}, {words}"
            )
        return f"{question.text} {'; '.join(parts)}."
    verdicts = {pair: verdict(comparisons[pair]) for pair in pairs}
    better, worse, equal = (
        [titles[pair[1]] for pair, words in verdicts.items() if words.startswith(start)]
        for start in ("better", "worse", NOTHING)
    )
    mean = float(np.mean([comparisons[pair].average.value for pair in pairs]))
    return (
        f"{question.text} Of {count(len(pairs), 'comparison')}, on these tasks: better in {_named(better)}, worse in "
        f"{_named(worse)}, no difference shown in {_named(equal)}; {in_points(mean, decimals, '+')} points on "
        "average."
    )


def _named(names: Sequence[str]) -> str:
    return f"{len(names)} ({listed(names)})" if names else "0"


def question_table(
    evidence: Evidence,
    asked: Mapping[Question, Sequence[Pair]],
    comparisons: Mapping[Pair, Comparison],
    titles: Mapping[str, str],
    decimals: int,
) -> Table:
    """Build the table of all comparisons, a section for every question."""

    def cells(comparison: Comparison) -> tuple[Cell, ...]:
        texts = (
            in_points(comparison.average.value, decimals, "+"),
            bounds(comparison.average, decimals, "+"),
            bounds(comparison.like, decimals, "+"),
            f"{comparison.p:.4f}",
            f"{comparison.won} : {comparison.lost}",
            verdict(comparison),
        )
        return tuple(map(Cell, texts))

    sections = tuple(
        (
            question.text,
            tuple((f"{titles[pair[0]]} − {titles[pair[1]]}", cells(comparisons[pair])) for pair in pairs),
        )
        for question, pairs in asked.items()
    )
    columns = ("Difference", "These tasks", "Tasks like these", "p (Holm)", "Won : lost", "Verdict")
    caption = (
        f"Suite {evidence.suite}: differences of average accuracy in points, over {len(evidence.tasks)} tasks and "
        f"{tested(evidence.marks)}; 95 % intervals of Student's t. These tasks: over test examples and "
        "seeds; tasks like these: over tasks and seeds. Won : lost: tasks whose own interval "
        f"lies above or below zero. p: two-sided, these tasks, after Holm's correction for "
        f"{count(len(comparisons), 'comparison')}; a difference is claimed below {SURE}."
    )
    return Table(caption, columns, sections, head="Comparison", words=("Verdict",))


def question_csv(
    tasks: Sequence[str], asked: Mapping[Question, Sequence[Pair]], comparisons: Mapping[Pair, Comparison]
) -> str:
    """Return the same with every task, in points with six decimals."""
    rows = [
        {"question": question.name, "method": pair[0], "other": pair[1], **interval_columns(comparisons[pair], tasks)}
        for question, pairs in asked.items()
        for pair in pairs
    ]
    return format_csv(pd.DataFrame(rows), "%.6f")
