"""The results of methods: how they are stored (data/merges), served, answered (data/answers) and counted.

solution      the result for one seed: coefficients or a delta, and extras
storage       solutions on disk, and the models that they give
serving/      models that are more than merged weights, a file per kind
answers       the predicted classes of a merge on every example
costs         bytes and operations at inference

Knows no method.
"""
