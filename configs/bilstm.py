"""Bidirectional LSTM: Embedding 16, Bi-LSTM 16, one logit; 84,257 parameters."""

from configs import base


def get_config(treatment: str = "exact"):
    config = base.get_config("bilstm", treatment)
    config.model.bidirectional = True
    return config
