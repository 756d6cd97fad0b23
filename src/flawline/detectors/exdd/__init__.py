"""ExDD: memory banks of normal and of defective patches, and the ratio of distances to them."""
