"""What the panel and a node say to each other: the only part of the agent that the panel may import."""
