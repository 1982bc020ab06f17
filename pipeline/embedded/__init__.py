"""What the embedded suites are made of: images from installed packages, and weights trained on them.

The checkpoints in data/checkpoints depend on these files and on nothing else of the project: keep it so.
"""
