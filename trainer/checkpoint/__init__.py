"""Save, verify, find, load and resume."""
