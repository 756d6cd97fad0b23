"""D3N: boxes and classes from labelled pictures, by a light detector that diffusion is to teach."""
