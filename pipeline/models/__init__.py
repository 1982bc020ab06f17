"""The models that are merged: a suite on disk, its encoder and task vectors, and seeded samples of its images.

suite           tasks on one backbone, in one on-disk layout
weights         names and layout of an encoder's tensors
encoder         the encoder as pure functions of its weights
task_vectors    task vectors, their merge, and the gradient of its coefficients
features        features of many images
sampling        seeded generators, samples and batches
"""
