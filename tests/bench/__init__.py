"""Measurements beside the bare tools: ``python -m tests.bench``. Never run by pytest."""
