"""Measurements of time and memory, one command each; results, with hardware and versions, in benchmarks/results."""
