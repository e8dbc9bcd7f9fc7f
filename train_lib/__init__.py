"""Data, training and reporting. Reads configs, builds models; `seqmodels` knows nothing of it."""
