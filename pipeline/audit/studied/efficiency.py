"""Data efficiency: every method with ever more images, against most of them and against its twin."""

from collections.abc import Mapping

from pipeline.audit.claimed import Excluding, Gain, Never, Number, Side, Spread, Words
from pipeline.audit.printed import bare
from pipeline.audit.studied import MAIN, TWIN, Forms, Says, Study, Table, basis, by_images, chance, gained

TITLE = "Data efficiency"
ENOUGH = (
    r"(.+), unlabelled images per task: (?:from ([\d,]+) on every interval of the difference to [\d,]+ includes zero "
    r"\([\d,]+: (.+?)\)|no number below [\d,]+ does so well that its interval includes zero); "
    r"(?:from ([\d,]+) on less than a point is lost \([\d,]+: (.+)\)|every number below [\d,]+ loses a point or more) "
    r"\(n = (.+)\)\."
)
SHARPNESS = r"(.+), points with k images per task: (.+)\. (\d+) of (\d+) (intervals .+) \(n = (.+)\)\."


def tables(study: Study) -> dict[str, Table]:
    """Accuracies with what sharpness gains, and what fewer images lose."""
    gains, losses, key = _gains(study), _losses(study), ("Images per task",)
    accuracies = {
        (str(k),): {study.titles[name]: Spread(study.runs(method=name, k=k).values.mean(1)) for name in study.methods}
        | gained(_pair(study), gain)
        for k, gain in gains.items()
    }
    lost = {
        (str(k),): {study.titles[name]: each[k] for name, each in losses.items()} for k in next(iter(losses.values()))
    }
    return {"accuracies": Table(key, accuracies), "losses": Table(key, lost)}


def sentences(study: Study) -> Forms:
    """How few images suffice, and what sharpness gains with each number of them."""
    gains, losses = _gains(study), {study.titles[name]: each for name, each in _losses(study).items()}

    def enough(title: str, clear: str, said: str, close: str, lost: str, n: str) -> Says:
        if title not in losses:
            return [(title, Never("no method of the study"))]
        own = losses[title]
        return [
            (n, study.counts(next(iter(own.values())))),
            *_includes(own, clear, said),
            *_close(own, close, lost),
        ]

    def sharpness(pair: str, each: str, clear: str, of: str, rest: str, n: str) -> Says:
        return [
            (pair, Words(_pair(study))),
            *by_images(each, gains),
            (clear, Excluding([*gains.values()])),
            (of, Number(len(gains))),
            *chance(rest, len(gains)),
            (n, study.counts(next(iter(gains.values())))),
        ]

    return [(ENOUGH, enough), (SHARPNESS, sharpness), *basis(study, next(iter(gains.values())))]


def _pair(study: Study) -> str:
    return f"{study.titles[MAIN]} minus {study.titles[TWIN].lower()}"


def _gains(study: Study) -> dict[int, Gain]:
    """{k: what sharpness gains}."""
    return {
        k: study.runs(method=MAIN, k=k).minus(study.runs(method=TWIN, k=k)) for k in sorted({*study.rows.k.tolist()})
    }


def _losses(study: Study) -> dict[str, dict[int, Gain]]:
    """{method: {k: accuracy with k images minus that with most}}."""
    *fewer, most = sorted({*study.rows.k.tolist()})
    return {
        name: {k: study.runs(method=name, k=k).minus(study.runs(method=name, k=most)) for k in fewer}
        for name in study.methods
    }


def _includes(own: Mapping[int, Gain], shown: str | None, said: str | None) -> Says:
    """From a number of images on every interval includes zero, and that of the number before does not."""
    budgets = [*own]
    place = budgets.index(int(bare(shown))) if shown and int(bare(shown)) in own else len(budgets)
    if shown and place == len(budgets):
        return [(shown, Never("no number of images of the study"))]
    found: Says = [("includes zero", Side(own[k], excludes=False)) for k in budgets[place:]]
    found += [("the first that includes zero", Side(own[k], excludes=True)) for k in budgets[:place][-1:]]
    return found + ([(said, own[budgets[place]])] if said else [])


def _close(own: Mapping[int, Gain], shown: str | None, said: str | None) -> Says:
    """From a number of images on less than a point is lost."""
    least = None
    for k in reversed(own):
        if own[k].values.mean() <= -1:
            break
        least = k
    if shown is None or least is None:
        return [("less than a point is lost", Never(f"its rows give {least}"))] if shown or least else []
    return [(shown, Number(least)), (said or "", own[least])]
