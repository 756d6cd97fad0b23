"""The Triton model repository: typed configurations, manifests, publishing."""
