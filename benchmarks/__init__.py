"""Measurements of time and memory, one command each; results, with hardware and versions, in benchmarks/results."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
