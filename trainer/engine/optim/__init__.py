"""Builds optimizers, parameter groups and schedules."""
