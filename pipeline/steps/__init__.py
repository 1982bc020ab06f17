"""What the stages do: a module per stage script of the same name. Paths and parameters in, results out.

`refinement` is what `rescale` and `surgery` share: both take a stored merge further.
"""
