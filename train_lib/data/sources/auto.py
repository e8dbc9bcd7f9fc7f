"""IMDB if it is available, otherwise the generated corpus, with a conspicuous notice."""

from collections.abc import Sequence

from train_lib.data.examples import Examples
from train_lib.data.sources.generated import Generated
from train_lib.data.sources.imdb import DownloadFailed, Imdb

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


class Auto:
    """Either of the two, whichever is available; takes their arguments."""

    def __init__(
        self,
        dir: str = "",
        archive: str = "",
        labelled: bool = True,
        train_examples: int = 0,
        validation_examples: int = 0,
        test_examples: int = 0,
    ):
        self.chosen: Imdb | Generated
        try:
            self.chosen = Imdb(dir, archive, labelled)
        except DownloadFailed as error:
            print(_NOTICE.format(reason=error), flush=True)
            self.chosen = Generated(train_examples, validation_examples, test_examples)
        self.name = self.chosen.name
        self.default_sizes = self.chosen.default_sizes
        self.fingerprinted = Generated.fingerprinted

    def identity(self) -> str:
        return self.chosen.identity()

    def splits(self) -> Sequence[str]:
        return self.chosen.splits()

    def read(self, split: str) -> Examples:
        return self.chosen.read(split)
