"""Temporal order: a long memory or none.

python main.py --config=configs/temporal_order.py --config.model.cell=NAME
python main.py --config=configs/temporal_order.py --config.data.source_options=length_tokens=1000
"""

from configs import base


def get_config():
    config = base.get_config("temporal_order", "exact")
    config.model.embedding_size = 16
    config.model.hidden_sizes = (32,)
    config.data.source = "temporal_order"
    config.data.max_features = 11
    config.data.train_examples = 10_000
    config.data.validation_examples = 1_000
    config.data.test_examples = 2_000
    config.train.num_epochs = 3
    config.train.batch_size = 32
    config.train.learning_rate = 3e-3
    config.train.clip_norm = 1.0
    return config
