"""The generated corpus, with the budget in which `benchmarks/cells.py` compares cells.

python main.py --config=configs/generated.py
    test accuracy .997, .670, .983, .878, seeds 0 to 3; .743, .864, .747, .743 at 3e-3
python main.py --config=configs/generated.py --config.model.cell=NAME
"""

from configs import base


def get_config():
    config = base.get_config("generated", "exact")
    config.model.hidden_sizes = (32,)
    config.data.source = "generated"
    config.data.max_features = 300
    config.data.train_examples = 15_000
    config.data.validation_examples = 2_000
    config.data.test_examples = 5_000
    config.train.num_epochs = 5
    config.train.batch_size = 64
    config.train.learning_rate = 1e-2
    config.train.clip_norm = 1.0
    return config
