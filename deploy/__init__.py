"""Tools that install, start, test and break Ulei: the standard library only, and no Django."""
