"""The models that are merged: a suite on disk, its encoder and task vectors.

suite           tasks on one backbone, in one on-disk layout
examples        images and texts, and their features
weights         names and layout of an encoder's tensors
encoder         what methods know of an encoder
  vit, bert, gpt2   CLIP's image tower and two encoders of texts, as pure functions of their weights
task_vectors    task vectors, their merge, and the gradient of its coefficients
"""
