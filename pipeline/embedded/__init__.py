"""The embedded suites: images from installed packages, and the training of weights on them.

The checkpoints in data/checkpoints depend on these files and on no other file of the project. Keep it so.
"""
