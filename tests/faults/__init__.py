"""Faults that the pipeline survives: `make faults`, which takes over half an hour; not part of the ordinary tests.

Every fault is tried on the tests' suite, on copies of one finished run. The counts are printed at the end.
"""
