"""Models, losses and metrics: start in model.py."""
