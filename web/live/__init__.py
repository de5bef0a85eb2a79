"""Websockets: changes of what a person may see, as they happen."""
