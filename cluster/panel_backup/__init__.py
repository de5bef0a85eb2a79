"""The panel in one file: its database, its keys, its CA and its configuration; and the way back from there.

``archive`` is the file, ``databases`` and ``installation`` are what goes into it, ``restore`` puts it back, and
``aftermath`` is what an older database must know of nodes that went on without it.
"""
