"""Theory in the report: the chain from divergence to risk, bounds over coefficients, and how linear merging is."""

from collections.abc import Iterator, Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline.report.figures import STYLE
from pipeline.report.studies import Context
from pipeline.report.studies._shared import add_legend, line_style, two_panels
from pipeline.report.view import Drawing, Frame, View
from pipeline.report.words import ZERO, compare, count, excludes_zero, interval, side_by_side
from pipeline.statistics.accuracy import MAIN, TWIN
from pipeline.statistics.contrasts import PairedDifference
from pipeline.statistics.pac_bayes import RISK, bound_risk

TERMS = {"difference": "risk", "tv": "E TV", "root": "E √(KL/2)", "bound": "√(E KL/2)"}
"""The chain from the left: {column: what it is called}; every term is at most the next."""
ROUNDING = 1e-5
"""By how much printed terms of the chain may be out of order."""
RANKING = {"kl": "the KL divergence from the experts", "entropy": "the entropy of the predictions"}
NAMES = {"average": "average", "task_arithmetic": "task arithmetic"}
DECIMALS = 3

Rows = Mapping[str, pd.DataFrame]
"""{name: table} of the study's folder."""


def view(rows: Rows, context: Context) -> View:
    """`rows`: the tables of the study's folder."""
    chain, expansions = compute_chain(rows["chain"]), _numbered(rows["expansions"])
    slopes, bounds = _numbered(rows["slopes"]), compute_bounds(rows["bounds"])
    linear = expansions.assign(missed=expansions.residual / expansions.change)
    seen = ", THE SPLIT OF CALIBRATION ITSELF," * (context.calibration_split == "validation")
    held = f"{count(int(chain.groupby('task').total.first().sum()), 'validation example')}{seen}"
    settings = context.params["study.theory"]
    return View(
        title="Theory",
        question=(
            "How far are measurable surrogates of what the theory of merging bounds from the risk of a merge, and do "
            "they rank merges as their risk does?"
        ),
        sentences=(
            *_describe_chain(chain, context),
            _describe_ranks(chain, context),
            *_describe_bounds(bounds, context),
            _describe_expansion(linear, context),
            _describe_slopes(slopes, context),
            *_describe_experts(rows["transfer"], rows["correlations"], context),
        ),
        tables={
            "chain": Frame(
                _tabulate_chain(chain, slopes, context),
                f"Means over {count(len(context.tasks), 'task')} on {held}. Risk: expected 0-1 loss above that of the "
                f"experts; each term is at most the next; Times: the last term over the risk. Entropy in nats; "
                f"Gradient: squared norm of the distillation loss's gradient with respect to the merged weights.",
            ),
            "bounds": Frame(
                _tabulate_bounds(bounds, context),
                f"Total variation distance from the experts of merges with drawn coefficients, mean over examples; the "
                f"bound holds with probability {1 - RISK:g} for examples like those of the test split, of which k per "
                f"task (n in all) were drawn. It is one bound of the mean over all n examples: they count as "
                f"independent draws from several tasks, given the clusters that they belong to, and the divergence is "
                f"paid for once. Prior and posterior have "
                f"the standard deviation s, of which the best of {len(settings['scales'])} is shown and paid for. "
                f"Limit: of the loss on the drawn examples, for {bounds.draws.max()} draws of the coefficients. "
                f"Prior: loss at the centre of the prior, {settings['prior']:g}.",
            ),
            "linear": Frame(
                _tabulate_expansions(linear, context),
                "What a first-order expansion at the pre-trained model misses of the change of the logits, by the "
                "share s of the merged delta; mean over tasks. 0: the model is linear there.",
            ),
        },
        figures={
            "theory": Drawing(
                _draw(chain, linear, context),
                f"Suite {context.suite}. Left: the terms of the chain, from the risk above the experts' to its last "
                f"bound, on {held}; means over {count(len(context.tasks), 'task')}. Right: what a "
                f"first-order expansion misses of the change of the logits, against the share of the merged delta. "
                f"One seed; intervals are in the text.",
            )
        },
    )


def compute_chain(rows: pd.DataFrame) -> pd.DataFrame:
    """Add the terms of TERMS that follow from others, and `error`: the top-1 error in per cent."""
    frame = _numbered(rows)
    return frame.assign(
        difference=frame.risk - frame.reference,
        bound=np.sqrt(frame.kl / 2),
        error=100 - 100 * frame.correct / frame.total,
    )


def compute_bounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return a row per method and k, for the scale with the least bound; losses are means over examples."""
    cases = []
    choices = rows.scale.nunique()
    for (method, k, scale), part in rows.groupby(["method", "k", "scale"], sort=False):
        weights, examples = part.samples / part.samples.sum(), int(part.samples.sum())
        means = {pool: float((weights * part[pool]).sum()) for pool in ("drawn", "whole", "held", "prior")}
        divergence = float(part.distance.iloc[0]) / (2 * float(scale) ** 2)
        draws = int(part.draws.iloc[0])
        limits = bound_risk(means["drawn"], draws, divergence, examples, choices)
        known = {"method": method, "k": k, "scale": scale, "n": examples, "draws": draws, "divergence": divergence}
        cases.append(known | means | limits._asdict())
    frame = pd.DataFrame(cases)
    return frame.loc[frame.groupby(["method", "k"], sort=False).expected.idxmin()].reset_index(drop=True)


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with seed -1 for none."""
    return rows.assign(seed=rows.seed.replace("", -1).astype("int64"))


def _means(rows: pd.DataFrame, value: str) -> dict[str, PairedDifference]:
    """Return {method: mean of `value` over tasks, with its interval}."""
    table = side_by_side(rows, "task", value)
    return {str(name): compare(table, str(name), ZERO) for name in dict.fromkeys(rows.method)}


def _describe_chain(chain: pd.DataFrame, context: Context) -> Iterator[str]:
    means = {term: _means(chain, term) for term in TERMS}
    parts = [
        f"{context.titles[name]} {interval(risk, DECIMALS)}, at most {means['bound'][name].mean:.{DECIMALS}f}"
        + (f" ({means['bound'][name].mean / risk.mean:.1f} times)" if risk.mean > 0 else "")
        for name, risk in means["difference"].items()
    ]
    tasks = count(len(context.tasks), "task")
    yield (
        f"Expected 0-1 loss above that of the experts, with 95 % interval, and the bound √(E KL/2): {'; '.join(parts)} "
        f"(n = {tasks})."
    )
    ordered = np.logical_and.reduce(
        [chain[term] <= chain[after] + ROUNDING for term, after in zip(TERMS, [*TERMS][1:], strict=False)]
    )
    shares = [
        f"{TERMS[term]} {chain[after].sum() / chain[term].sum():.2f}"
        for term, after in zip(TERMS, [*TERMS][1:], strict=False)
    ]
    yield (
        f"The chain from the risk to this bound holds in {int(ordered.sum())} of {len(chain)} cases, a merge on a task "
        f"each; summed over them, the next term is so many times as large: {', '.join(shares)}."
    )


def compute_ranks(chain: pd.DataFrame) -> pd.DataFrame:
    """Return Spearman's correlation over merges with the error: a row per measure of RANKING and a column per task.

    A task on which all merges have the same error, or measure, has none and is left out.
    """
    ranks = {name: chain.pivot(index="method", columns="task", values=name).rank() for name in ("error", *RANKING)}
    return pd.DataFrame({name: ranks[name].corrwith(ranks["error"]) for name in RANKING}).dropna().T


def _describe_ranks(chain: pd.DataFrame, context: Context) -> str:
    ranks = compute_ranks(chain)
    merges = count(chain.method.nunique(), "merge")
    if ranks.empty:
        return f"Rank correlations over {merges} are undefined: errors are equal."
    long = ranks.rename_axis("method").reset_index().melt("method", var_name="task").assign(seed=-1)
    table = side_by_side(long, "task", "value")
    kl, entropy = (compare(table, name, ZERO) for name in RANKING)
    gap = compare(table, "kl", "entropy")
    tasks = count(ranks.shape[1], "task")
    return (
        f"Rank correlation over {merges} with the top-1 error, mean over tasks with 95 % interval: {RANKING['kl']} "
        f"{interval(kl, 2)}, {RANKING['entropy']} {interval(entropy, 2)}; the difference is {_judged(gap, 2)} "
        f"(n = {tasks})."
    )


def _judged(difference: PairedDifference, decimals: int) -> str:
    return f"{interval(difference, decimals)}, which {'excludes' if excludes_zero(difference) else 'includes'} zero"


def _describe_bounds(bounds: pd.DataFrame, context: Context) -> Iterator[str]:
    for method, part in bounds.groupby("method", sort=False):
        cases = [
            f"k = {case.k:,}: {case.expected:.{DECIMALS}f} (measured {case.whole:.{DECIMALS}f} on the whole test "
            f"split, {case.held:.{DECIMALS}f} on validation)"
            for case in part.itertuples()
        ]
        useful, better = int((part.expected < 1 - ROUNDING).sum()), int((part.expected < part.prior).sum())
        yield (
            f"{context.titles[str(method)]}, PAC-Bayes bound of the distance from the experts, with probability "
            f"{1 - RISK:g}: {'; '.join(cases)}. Of {count(len(part), 'bound')}, {useful} are below 1 and {better} "
            f"below the distance of the prior's centre (n = 1 seed)."
        )


def _describe_expansion(linear: pd.DataFrame, context: Context) -> str:
    share = min(linear.share.unique(), key=lambda value: abs(value - 1))
    means = _means(linear[linear.share == share], "missed")
    parts = [f"{context.titles[name]} {interval(mean, 2, '')}" for name, mean in means.items()]
    return (
        f"A first-order expansion at the pre-trained model misses this share of the change of the logits at {share:g} "
        f"times the merged delta, mean over tasks with 95 % interval: {', '.join(parts)} "
        f"(n = {count(len(context.tasks), 'task')})."
    )


def _describe_slopes(slopes: pd.DataFrame, context: Context) -> str:
    means = _means(slopes, "slope")
    parts = [f"{context.titles[name]} {interval(mean, 2, '')}" for name, mean in means.items()]
    gap = compare(side_by_side(slopes, "task", "slope"), MAIN, TWIN)
    return (
        f"Squared norm of the gradient of a task's distillation loss with respect to the merged weights, mean over "
        f"tasks with 95 % interval: {', '.join(parts)}; {context.minus(MAIN, TWIN)}: {_judged(gap, 2)} "
        f"(n = {count(len(context.tasks), 'task')})."
    )


def compute_heterogeneity(transfer: pd.DataFrame) -> pd.DataFrame:
    """Return, in points, how much worse the mean expert is on a task: a column per task, a row per reference.

    `task`: than that task's expert; `expert`: than each expert on its own task. Their means over tasks are the same.
    """
    accuracies = transfer.pivot(index="expert", columns="task", values="accuracy")
    experts = pd.Series(np.diag(accuracies.loc[accuracies.columns]), accuracies.columns)
    return pd.DataFrame({"task": experts - accuracies.mean(), "expert": experts.mean() - accuracies.mean()}).T


def _describe_experts(transfer: pd.DataFrame, correlations: pd.DataFrame, context: Context) -> Iterator[str]:
    table = compute_heterogeneity(transfer)
    long = table.rename_axis("method").reset_index().melt("method", var_name="task").assign(seed=-1)
    of_task, of_expert = (compare(side_by_side(long, "task", "value"), name, ZERO) for name in table.index)
    yield (
        f"Cross-task heterogeneity, by how many points of accuracy the experts are worse on all tasks than on their "
        f"own, all weights equal: {interval(of_task, 1)} with 95 % interval against each task's own expert, "
        f"{interval(of_expert, 1)} against each expert on its own task (n = {count(len(context.tasks), 'task')})."
    )
    numbers = correlations[["rho", "task_low", "task_high"]].apply(pd.to_numeric, errors="coerce")
    if numbers.rho.isna().all():
        return
    parts = [
        f"{NAMES[str(method)]} {rho:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if np.isfinite(low) else "")
        for method, (rho, low, high) in zip(correlations.method, numbers.to_numpy(), strict=True)
        if np.isfinite(rho)
    ]
    yield (
        f"Rank correlation of the heterogeneity of {count(int(correlations.n.iloc[0]), 'subset')} of the tasks with "
        f"what their simple merges lose, ranked within subsets of one size, with 95 % interval over tasks: "
        f"{', '.join(parts)}."
    )


def _tabulate_chain(chain: pd.DataFrame, slopes: pd.DataFrame, context: Context) -> pd.DataFrame:
    means = chain.groupby("method", sort=False)[[*TERMS, "error", "entropy"]].mean()
    gradients = slopes.groupby("method").slope.mean().to_dict()
    return pd.DataFrame(
        {"Method": context.titles[str(name)]}
        | {title: f"{row[term]:.{DECIMALS}f}" for term, title in {**TERMS, "difference": "Risk"}.items()}
        | {
            "Times": f"{row['bound'] / row['difference']:.1f}" if row["difference"] > 0 else "",
            "Error, %": f"{row['error']:.{context.decimals}f}",
            "Entropy": f"{row['entropy']:.{DECIMALS}f}",
            "Gradient": f"{gradients[str(name)]:.2f}",
        }
        for name, row in means.iterrows()
    )


def _tabulate_bounds(bounds: pd.DataFrame, context: Context) -> pd.DataFrame:
    losses = {"Drawn": "drawn", "Limit": "estimated", "Bound": "expected", "Whole split": "whole", "Validation": "held"}
    return pd.DataFrame(
        {"Method": context.titles[str(case["method"])], "k": f"{case['k']}", "n": f"{case['n']}"}
        | {"s": f"{case['scale']:g}", "KL": f"{case['divergence']:.1f}"}
        | {title: f"{case[name]:.{DECIMALS}f}" for title, name in losses.items()}
        | {"Prior": f"{case['prior']:.{DECIMALS}f}"}
        for _, case in bounds.iterrows()
    )


def _tabulate_expansions(linear: pd.DataFrame, context: Context) -> pd.DataFrame:
    means = linear.groupby(["method", "share"], sort=False).missed.mean().unstack("share")
    return pd.DataFrame(
        {"Method": context.titles[str(name)]}
        | {f"s = {share:g}": f"{value:.{DECIMALS}f}" for share, value in row.items()}
        for name, row in means.iterrows()
    )


@mpl.rc_context(STYLE)
def _draw(chain: pd.DataFrame, linear: pd.DataFrame, context: Context) -> Figure:
    """Draw the terms of the chain and the residuals of the expansion, a line per method."""
    figure, left, right = two_panels(context.width, 0.5, "mean over tasks", "residual / change of the logits")
    terms = chain.groupby("method")[[*TERMS]].mean()
    missed = linear.groupby(["method", "share"]).missed.mean()
    for name, look in context.styles(dict.fromkeys(chain.method)).items():
        left.plot(range(len(TERMS)), terms.loc[name], **line_style(look))
        right.plot(missed[name].index, missed[name], **line_style(look))
    left.set(xticks=range(len(TERMS)))
    left.set_xticklabels(TERMS.values())
    right.set(xlabel="share s of the merged delta", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3, linewidth=0.5)
    return add_legend(figure, left, 4)
