"""One package per paper: pure modules and their fit, no input or output."""
