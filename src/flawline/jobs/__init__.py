"""Whole pieces of work: plain data in, an artefact, figures or a published line out. Each is one call."""
