"""Protocol: what calibrating on the images that are scored is worth."""

from pipeline.audit.claimed import Excluding, Gain, Never, Number, Spread
from pipeline.audit.studied import Forms, Says, Study, Table, basis, by_images, chance, gained

TITLE = "Protocol"
WORTH = r"(.+), transductive minus held-out: (.+) \(n = (.+)\)\."
CLEAR = r"(\d+) of (\d+) intervals exclude zero, where (chance alone would give about [\d.]+)\. Runs are paired .+\."


def tables(study: Study) -> dict[str, Table]:
    """A row per method and number of images."""
    rows = {
        (study.titles[name], str(k)): {
            "Held-out": Spread(study.runs(method=name, k=k, setting="held-out").values.mean(1)),
            "Transductive": Spread(study.runs(method=name, k=k, setting="transductive").values.mean(1)),
        }
        | gained("Difference", gain)
        for name, each in _worth(study).items()
        for k, gain in each.items()
    }
    return {"protocol": Table(("Method", "Images per task"), rows)}


def sentences(study: Study) -> Forms:
    """The worth for every method, and how many intervals exclude zero."""
    worth = {study.titles[name]: each for name, each in _worth(study).items()}
    every = [gain for each in worth.values() for gain in each.values()]

    def of(title: str, said: str, n: str) -> Says:
        if title not in worth:
            return [(title, Never("no method of the study"))]
        return [*by_images(said, worth[title]), (n, study.counts(every[0]))]

    def clear(number: str, total: str, rest: str) -> Says:
        return [(number, Excluding(every)), (total, Number(len(every))), *chance(rest, len(every))]

    return [(WORTH, of), (CLEAR, clear), *basis(study, every[0])]


def _worth(study: Study) -> dict[str, dict[int, Gain]]:
    """{method: {k: transductive minus held-out}}."""
    return {
        name: {
            k: study.runs(method=name, k=k, setting="transductive").minus(
                study.runs(method=name, k=k, setting="held-out")
            )
            for k in sorted({*study.rows.k.tolist()})
        }
        for name in study.methods
    }
