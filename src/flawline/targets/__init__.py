"""How a line's graph is exported and compiled, and the proof that it still answers the same."""
