"""What a method returns, and how it is stored and served. Code for data/merges and data/answers; knows no method.

solution      the result of one seed: coefficients or a delta, and extras
storage       solutions on disk, and the models that they make
serving/      models that are more than merged weights, a file per kind
refinement    a stored merge taken further by another stage
answers       the predicted classes of a merge on every image
costs         bytes and operations at inference
"""
