"""The embedded suites: images from installed packages, and the training of weights on them, or on texts.

The checkpoints in data/checkpoints depend on these files and on no other file of the project, but those of language
models on the texts that `pipeline.suites.language` draws, whose hashes they record. Keep it so.
"""
