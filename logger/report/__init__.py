"""A report on runs from their folders, also while they train: python -m logger.report saved. It can be deleted."""
