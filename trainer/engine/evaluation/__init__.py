"""Evaluations: passes over a data set, and what is kept of them."""
