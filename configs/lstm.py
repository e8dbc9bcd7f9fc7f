"""LSTM: Embedding 16, LSTM 16, one logit; 82,129 parameters.

python main.py --config=configs/lstm.py
    test accuracy .8604, interval .8550 to .8657, ten seeds (one more: .8488 to .8714);
    18 s from command to result on 2 cores of an AMD EPYC, with warm caches; ten seeds: 128 s
python main.py --config=configs/lstm.py:tutorial
    test accuracy .8630, interval .8580 to .8679, ten seeds
"""

from configs import base


def get_config(treatment: str = "exact"):
    return base.get_config("lstm", treatment)
