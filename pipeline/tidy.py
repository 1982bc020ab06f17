"""What figures and `dvc plots` show, as tidy rows: accuracies in per cent, losses in nats."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.results import Results

POINTS = 100
"""Points of a loss curve in reports/plots."""


def accuracies(means: pd.DataFrame) -> pd.DataFrame:
    """method, task, accuracy of `means` [method, task]."""
    return means.rename_axis("method").reset_index().melt("method", var_name="task", value_name="accuracy")


def coefficients(values: np.ndarray, tasks: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """task, tensor, coefficient of lambda [T, G]."""
    index = pd.MultiIndex.from_product([tasks, groups], names=["task", "tensor"])
    return pd.DataFrame({"coefficient": values.ravel()}, index).reset_index()


def losses(curves: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """method, step, mean, low, high over seeds of loss [S, steps] per method."""
    frames = [
        pd.DataFrame({"mean": values.mean(0), "low": values.min(0), "high": values.max(0)})
        .rename_axis("step")
        .reset_index()
        .assign(method=method)
        for method, values in curves.items()
    ]
    return pd.concat(frames)[["method", "step", "mean", "low", "high"]]


def plots(found: Iterable[Results]) -> dict[str, pd.DataFrame]:
    """{name: rows} of reports/plots."""
    rows: dict[str, list[pd.DataFrame]] = {"accuracy": [], "losses": []}
    for results in found:
        tidy = results.runs[list(results.tasks)].melt(var_name="task", value_name="accuracy", ignore_index=False)
        rows["accuracy"].append(tidy.reset_index().assign(suite=results.suite))
        for method, values in results.losses.items():
            stride = -(-values.shape[1] // POINTS)
            seeds, steps = np.indices(values.shape)[:, :, ::stride].reshape(2, -1)
            named = {"suite": results.suite, "method": method, "seed": np.sort(results.protocol.seeds)[seeds]}
            rows["losses"].append(pd.DataFrame(named | {"step": steps, "loss": values[seeds, steps]}))
    order = {
        "accuracy": ["suite", "method", "task", "seed", "accuracy"],
        "losses": ["suite", "method", "seed", "step", "loss"],
    }
    return {name: pd.concat(frames)[order[name]].replace({"seed": -1}, "") for name, frames in rows.items()}


def csv(frame: pd.DataFrame) -> str:
    """The rows with six significant digits; empty where undefined."""
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
