"""What the two student-teacher detectors share: building blocks, crops to learn from, and the training loop."""
