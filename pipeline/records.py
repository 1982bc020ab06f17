"""What the report keeps of data/ beside the scores, word for word, so that a clone can be audited without data/."""

from typing import Any

from pipeline.results import Chosen, Results, record_names


def records(results: Results, chosen: Chosen) -> dict[str, Any]:
    """{path of a JSON file of data/: its content}: run records, origin and costs of a suite."""
    suite = results.suite
    return {
        f"data/origins/{suite}.json": results.origin,
        **{f"data/costs/{suite}/{name}.json": cost for name, cost in results.costs.items()},
        **dict(zip((f"data/runs/{name}.json" for name in record_names(suite, chosen)), results.records, strict=True)),
    }
