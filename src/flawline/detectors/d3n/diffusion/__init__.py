"""The diffusion side of D3N: a fused detector that sees a diffusion model's features, and teaches the light one."""
