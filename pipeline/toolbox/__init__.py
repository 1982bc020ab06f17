"""Mathematics that several methods share, as plain functions of tensors.

Nothing here knows a method, a file or a calibration loop.
"""
