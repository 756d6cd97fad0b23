"""What runs inside or around Triton: the code of its Python stages, and the server of the pip wheel."""
