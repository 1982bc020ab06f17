"""The work of the stages: one module per stage script of the same name, from paths and parameters to results.

`refinement` is shared by `svc`, `rescale` and `surgery`, which all start from a stored merge.
"""
