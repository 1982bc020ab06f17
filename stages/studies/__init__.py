"""One thin script per study; the dvc.yaml in this folder is their pipeline (`make studies`)."""
