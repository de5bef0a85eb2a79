"""The engine: jobs as rows, steps with undo, locks, delivery. It knows no operation by name."""
