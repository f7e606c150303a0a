"""Predictions of trained runs: `predict(run, inputs)`, and what predict.py consists of."""

from trainer.inference.python import Predictions, Predictor, predict

__all__ = ["Predictions", "Predictor", "predict"]
