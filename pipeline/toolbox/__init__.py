"""What several methods share, as plain functions of tensors: no method, no file, no calibration loop is known here."""
