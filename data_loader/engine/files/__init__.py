"""Files that are larger than memory: where each sample begins, and reading a few of them at once."""
