"""Redis keys by which the conductor and the web processes know of each other."""

ALIVE_KEY = "panel.conductor"
"""Expires soon after the conductor fell silent."""
EPOCH_KEY = "panel.epoch"
