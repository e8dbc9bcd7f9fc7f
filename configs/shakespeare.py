"""Characters of Shakespeare's plays, one after the other: a language model.

python main.py --config=configs/shakespeare.py --config.data.source=input.txt

The source is tiny Shakespeare's text (1,115,394 characters): the last tenth is for testing, in one
piece, and the twentieth before it for validation. Test loss: 1.407 nats per character over three
seeds, interval 1.398 to 1.416, in 19 minutes each on one core of an Intel Xeon with AMX, with
--config.model.matrix_dtype=bfloat16. docs/language_models.md has the command, and what led here.
"""

from configs import base


def get_config():
    config = base.get_config("shakespeare", "exact")
    config.model.embedding_size = 64
    config.model.hidden_sizes = (512,)
    config.model.dropout_rates = (0.1,)
    config.model.word_dropout = 0.1
    config.model.output_dropout = 0.5
    config.model.weight_drop = 0.05
    config.data.text_rules = "characters"
    config.task.name = "next_token"
    config.train.stream_steps = 64
    config.train.batch_size = 64
    config.train.num_epochs = 32
    config.train.optimizer = "adamw"
    config.train.optimizer_options = "b2=0.99"
    config.train.weight_decay = 0.05
    config.train.learning_rate = 2e-2
    config.train.schedule = "cosine"
    config.train.warmup = 0.05
    config.train.ema_decay = 0.998
    config.train.clip_norm = 1.0
    return config
