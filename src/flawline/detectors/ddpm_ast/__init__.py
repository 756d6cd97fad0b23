"""ddpm_ast: a frozen teacher, a student of another kind, and a head that reads where they disagree."""
