"""One thin script per study; dvc.yaml beside it is their pipeline (`make studies`)."""
