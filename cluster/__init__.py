"""The domain: what the cluster is and what may be done to it. A Django app without pages."""
