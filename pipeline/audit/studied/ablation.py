"""Objective x sharpness x granularity: what every combination has, and what a level adds to another."""

from itertools import product

from pipeline.audit.claimed import Gain, Never, Spread, Words
from pipeline.audit.studied import Forms, Runs, Says, Study, Table, average, basis, gained

TITLE = "Ablation"
FACTORS = ("objective", "sharpness", "granularity")
LEVELS = {
    "objective": {"entropy": "entropy", "distillation": "distillation"},
    "sharpness": {"none": "no sharpness", "sam": "SAM", "asam": "ASAM"},
    "granularity": {"task": "task-wise", "layer": "layer-wise"},
}
NAMES = {level: name for levels in LEVELS.values() for level, name in levels.items()}
EFFECTS = (
    ("objective", "distillation", "entropy"),
    ("sharpness", "sam", "none"),
    ("sharpness", "asam", "none"),
    ("granularity", "layer", "task"),
)
RELEASED, FULL = ("distillation", "none", "layer"), ("distillation", "sam", "layer")
NOTES = {RELEASED: "as the released code computes", FULL: "SAMerging"}
ADDED = r"(.+) instead of (.+), mean over all combinations of the other factors: (.+) \(n = (.+)\)\."
REST = (
    r"Distillation \+ no sharpness \+ layer-wise is what the released configuration effectively computes: .+ It has "
    r"(.+) %; working SAM changes that by (.+) \(n = (.+)\)\."
)


def tables(study: Study) -> dict[str, Table]:
    """Every combination, and every effect over all of them and in each."""
    found = _combinations(study)
    shown = {
        tuple(NAMES[level] for level in one): {
            "Average": Spread(runs.values.mean(1)),
            "Worst task": Spread(runs.values.min(1)),
            "": Words(NOTES.get(one, "")),
        }
        for one, runs in found.items()
    }
    effects = {}
    for factor, level, other in EFFECTS:
        title = f"{NAMES[level]} minus {NAMES[other]}"
        effects[title, "all"] = gained("Points", _effect(found, factor, level, other))
        rest = [LEVELS[one] for one in FACTORS if one != factor]
        for fixed in product(*rest):
            where = ", ".join(NAMES[one] for one in fixed)
            effects[title, where] = gained("Points", _effect(found, factor, level, other, fixed))
    return {
        "combinations": Table(tuple(factor.capitalize() for factor in FACTORS), shown),
        "effects": Table(("Effect", "Where"), effects),
    }


def sentences(study: Study) -> Forms:
    """What each level adds over all combinations, and what the released code computes."""
    found = _combinations(study)
    effects = {
        (NAMES[level].lower(), NAMES[other].lower()): _effect(found, factor, level, other)
        for factor, level, other in EFFECTS
    }
    released = found[FULL].minus(found[RELEASED])

    def added(level: str, other: str, said: str, n: str) -> Says:
        gain = effects.get((level.lower(), other.lower()))
        return [(level, Never("no effect of the study"))] if gain is None else [(said, gain), (n, study.counts(gain))]

    def rest(spread: str, said: str, n: str) -> Says:
        return [(spread, Spread(found[RELEASED].values.mean(1))), (said, released), (n, study.counts(released))]

    return [(ADDED, added), (REST, rest), *basis(study, released)]


def _combinations(study: Study) -> dict[tuple[str, ...], Runs]:
    return {one: study.runs(setting="/".join(one)) for one in product(*LEVELS.values())}


def _effect(
    found: dict[tuple[str, ...], Runs], factor: str, level: str, other: str, fixed: tuple[str, ...] = ()
) -> Gain:
    """A level minus another, each the mean over all combinations in which the other factors are `fixed`."""
    place = FACTORS.index(factor)

    def mean(value: str) -> Runs:
        return average([runs for one, runs in found.items() if one[place] == value and {*fixed} <= {*one}])

    return mean(level).minus(mean(other))
