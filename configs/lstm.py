"""LSTM: Embedding 16, LSTM 16, one logit; 82,129 parameters."""

from configs import base


def get_config(treatment: str = "exact"):
    return base.get_config("lstm", treatment)
