"""Every field once: its default, its unit and its meaning.

An experiment is a file like `configs/lstm.py`: this one plus what differs. Any field can be
overridden on the command line, as in `--config.train.num_epochs=5`. `train_lib/settings.py`
says which values are accepted.

A new field's default is what the program did before the field existed: the folders of older runs,
which lack the field, are read with it.
"""

from ml_collections import ConfigDict


def get_config(name: str, treatment: str) -> ConfigDict:
    """The defaults of an experiment.

    Args:
        name: the experiment's name; the run folder is named after it.
        treatment: the treatment of length. `exact`: padding never reaches a result. `tutorial`:
            every sequence is pre-padded to the longest training sequence, longer ones keep their
            last steps, and nothing is masked.
    """
    if treatment not in ("exact", "tutorial"):
        raise ValueError(f"unknown treatment {treatment!r}; choose one of exact, tutorial")
    config = ConfigDict()
    config.name = name if treatment == "exact" else f"{name}-{treatment}"

    config.model = ConfigDict()
    config.model.cell = "lstm"  # a module in seqmodels/cells, or a path/to/mine.py
    config.model.cell_options = ""  # options of its constructor, as in "forget_bias=3.0"
    config.model.embedding_size = 16  # width of a word's vector
    config.model.hidden_sizes = (16,)  # units of each recurrent layer, from the bottom up
    config.model.direction = "forward"  # of every layer: forward, backward or bidirectional
    config.model.merge = "concat"  # how a layer's directions merge: concat, sum, mean or product
    config.model.learned_initial_state = False  # as parameters that begin at the cell's own
    config.model.residual = False  # layers above the first add their input to their output
    config.model.dropout_rates = (0.0,)  # for each recurrent layer, the rate on its input
    config.model.recurrent_dropout = 0.0  # rate on h before the recurrent matrix; mask per sequence
    config.model.zoneout = 0.0  # rate at which elements of the carry stay as they were
    config.model.word_dropout = 0.0  # rate at which a token is read as an unknown word
    config.model.embedding_dropout = 0.0  # rate at which a word is dropped wherever it occurs
    config.model.output_dropout = 0.0  # rate on the head's input
    config.model.weight_drop = 0.0  # rate at which elements of recurrent matrices are dropped
    config.model.engine = "auto"  # what runs the cells; see seqmodels/recurrence/engines.py
    config.model.matrix_dtype = "float32"  # of products: also tensorfloat32, bfloat16
    config.model.segment_steps = 1  # steps between stored carries; more: less memory, more time
    config.model.pooling = "last"  # sequence to vector: last, mean, max, mean_max or attention
    config.model.projection_size = 0  # size that the head's input is projected to; 0: none
    # For a language model: the head has the embedding's vectors, and its own bias.
    config.model.tied_head = False

    config.data = ConfigDict()
    # imdb, generated, temporal_order, or auto: IMDB if available; path/to/mine.py; or data: a
    # .csv, .tsv, .jsonl, .parquet, .npz, .ts or .conll file, a folder of them, tfds:NAME
    config.data.source = "auto"
    config.data.source_options = ""  # options of its constructor, as in "length_tokens=500"
    config.data.dir = ""  # tensorflow-datasets folder; empty: $TFDS_DATA_DIR, else its default
    config.data.archive = ""  # aclImdb_v1.tar.gz or an extracted aclImdb/, to prepare IMDB from
    config.data.text_column = ""  # column of the inputs; empty: a guess, which is printed
    config.data.target_column = ""  # column of the targets, or several: "a,b"; empty: a guess
    config.data.group_column = ""  # rows with the same value stay in one split; empty: none
    # What a text is split into: words by keras, or unicode for any typography; characters; bytes.
    config.data.text_rules = "keras"
    config.data.max_features = 5_000  # vocabulary size, the four reserved numbers included
    config.data.max_length_tokens = 0  # longer sequences keep their last steps; 0: all keep all
    config.data.standardize = False  # scale vectors by their mean and deviation in training
    config.data.train_examples = 0  # 0: the rest; for IMDB 15,000
    config.data.validation_examples = 0  # 0: all there are, or a tenth; for IMDB 10,000
    config.data.test_examples = 0  # 0: all there are, or a fifth
    config.data.split_seed = 0  # seed of the draw of splits that the data lack
    config.data.mask_padding = treatment == "exact"  # False: padding is read like a word
    config.data.padding_side = "post" if treatment == "exact" else "pre"  # after or before

    config.task = ConfigDict()
    config.task.name = "classes"  # classes, labels, numbers, tags, next_token; or path/to/mine.py
    config.task.options = ""  # of its `of_targets`, besides the fields below: "alpha=2.0"
    config.task.metric = ""  # decides which epoch or model is better; empty: the task's own
    config.task.class_weights = ""  # in the training loss: balanced, or a JSON object
    config.task.label_smoothing = 0.0  # share of a label that all classes share in training
    # For a language model: how many drawn tokens stand for all others in training; 0: none.
    config.task.sampled_tokens = 0
    config.task.threshold = ""  # for two classes, or "validation": the best on its examples

    config.train = ConfigDict()
    config.train.num_epochs = 12  # passes over the training examples
    config.train.batch_size = 512  # examples at once
    config.train.accumulate_batches = 1  # batches per update
    config.train.optimizer = "adam"  # Keras' Adam, or one of optax's by its name
    config.train.optimizer_options = ""  # options of its constructor, as in "b2=0.99"
    config.train.learning_rate = 1e-3  # the highest one
    config.train.schedule = "constant"  # linear, cosine, inverse_sqrt or one_cycle lower the rate
    config.train.warmup = 0.0  # updates in which the rate rises; below 1: their share of the run
    config.train.final_share = 0.0  # share of the learning rate at which a schedule ends
    config.train.plateau_patience = 0  # epochs without gain until the rate is cut; 0: never
    config.train.plateau_factor = 0.1  # factor that then multiplies the rate
    config.train.weight_decay = 0.0  # share of a matrix lost per update, times the rate
    config.train.groups = ""  # parameter groups; '{"inputs.*": {"rate": 0.1, "frozen_epochs": 2}}'
    config.train.clip_norm = 0.0  # norm to which larger gradients are clipped; 0: no clipping
    config.train.adam_epsilon = 1e-7  # for adam, added as in Keras: to the uncorrected root
    config.train.ema_decay = 0.0  # decay of averaged parameters, which are evaluated; 0: the last
    config.train.patience = 0  # epochs without gain until a seed stops, its best tested; 0: no
    # For a language model: texts are joined and read in rows of this many steps, batch_size rows
    # per batch; the state is kept from one batch to the next. 0: each text is a sequence.
    config.train.stream_steps = 0
    config.train.checkpoint_every_seconds = 60.0  # between checkpoints; 0: no limit of seconds
    config.train.checkpoint_every_steps = 0  # between checkpoints; 0: no limit of steps
    config.train.checkpoints_kept = 2  # how many of a run's last ones
    config.train.init_from = ""  # folder of a finished run whose parameters the model starts with
    config.train.init_vectors = ""  # file of word vectors that the embedding starts with
    config.train.seeds = 1  # independent runs at once, each with its own seed
    config.train.seed = 0  # first seed of initialisation, data order and dropout; others follow
    return config
