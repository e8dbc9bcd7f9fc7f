"""LSTM: Embedding 16, LSTM 16, one logit; 82,129 parameters.

python main.py --config=configs/lstm.py
    test accuracy .8453, .8646 and .8620 with the seeds 0, 1 and 2;
    20 s from command to result on 2 cores of an AMD EPYC, with warm caches
python main.py --config=configs/lstm.py:tutorial
    test accuracy .8674, interval .8631 to .8715, one seed
"""

from configs import base


def get_config(treatment: str = "exact"):
    return base.get_config("lstm", treatment)
