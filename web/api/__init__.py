"""REST: reads over selectors, one endpoint that starts any operation, and errors that say what to do."""
