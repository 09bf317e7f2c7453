"""Tests with a pretrained model; opt in with `make test-real`."""
