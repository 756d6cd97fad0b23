"""What a build leaves for a line and version: written once, read back, looked up by its key."""
