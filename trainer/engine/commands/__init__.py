"""What `--check`, `--replay` and find.py do."""
