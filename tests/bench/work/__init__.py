"""Parts that need the panel's own code: each runs as a process in a plant's environment."""
