"""What sweep.py does with trained models."""
