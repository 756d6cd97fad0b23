"""The one training loop, its state on disk and its budget of time."""
