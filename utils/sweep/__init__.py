"""What sweep.py consists of: a set of runs, their table, and a search. Optuna is imported in study.py alone."""
