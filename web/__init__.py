"""The face of the panel: pages, API and sockets. It imports the domain and holds no rules."""
