"""Chooses the corpus that a config asks for."""

from train_lib.data import generated, imdb, temporal_order
from train_lib.data.corpus import Corpus

NAMES = ("auto", "imdb", "generated", "temporal_order")

READ_BY = {
    "dir": ("auto", "imdb"),
    "archive": ("auto", "imdb"),
    "length_tokens": ("temporal_order",),
}
"""The fields of `config.data` that only some sources read, and which these are."""

_NOTICE = """
**************************************************************************
  THIS RUN DOES NOT USE IMDB. It was not found on this machine and could
  not be downloaded, so the generated corpus takes its place: its accuracy
  says nothing about IMDB.

  {reason}

  With a network, get IMDB (84 MB) by
      python main.py --config=CONFIG --config.data.source=imdb
  or, from a file that you have, by
      python main.py --config=CONFIG --config.data.archive=aclImdb_v1.tar.gz
**************************************************************************
"""


def find(data_config) -> Corpus:
    """The corpus that `config.data` asks for, prepared and ready to be read.

    Raises:
        UserError: it cannot be had; the message says what to do.
    """
    counts = {
        "train_reviews": data_config.train_reviews + data_config.validation_reviews,
        "test_reviews": data_config.test_reviews,
    }
    if data_config.source == "temporal_order":
        return temporal_order.TemporalOrder(data_config.length_tokens, **counts)
    if data_config.source != "generated":
        try:
            return imdb.find(data_config.dir, data_config.archive)
        except imdb.DownloadFailed as error:
            if data_config.source == "imdb":
                raise
            print(_NOTICE.format(reason=error), flush=True)
    return generated.GeneratedCorpus(**counts)
