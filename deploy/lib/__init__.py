"""What the entry scripts share: assets, checks and the test runner."""
