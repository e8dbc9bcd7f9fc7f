"""Running text, `.txt`: one text per file, for a language model; its end is held out."""

import pathlib

import numpy as np

from train_lib.data.examples import SPLITS, Examples
from train_lib.data.readers.base import Files, open_text, options_of
from train_lib.errors import UserError


class RunningText(Files):
    """A text without targets.

    A single file is divided: its end is for testing, and the part before that for validation. A
    folder has a file for each split.

    Args:
        path: of the file, or of a folder with `train.txt`, `validation.txt` and `test.txt`.
        validation_share: the share of a single file's characters for validation.
        test_share: the share for testing.
        whole: whether a single file is left undivided.
    """

    suffixes = (".txt",)

    def __init__(
        self,
        path: str,
        /,
        validation_share: float = 0.05,
        test_share: float = 0.1,
        whole: bool = False,
    ):
        super().__init__(path, options_of(RunningText.__init__, locals()))
        shares = validation_share, test_share
        if not all(isinstance(share, int | float) and 0 < share < 1 for share in shares):
            raise UserError(
                f"validation_share = {validation_share!r} and test_share = {test_share!r} must be "
                "numbers between 0 and 1."
            )
        if sum(shares) >= 1:
            raise UserError(
                f"validation_share = {validation_share} and test_share = {test_share} leave "
                "nothing to train on; make them smaller."
            )
        # Where each part begins and ends, as a share of the text.
        first, last = 1 - validation_share - test_share, 1 - test_share
        parts = ((0.0, first), (first, last), (last, 1.0))
        self._parts = dict(zip(SPLITS, parts, strict=True))
        if whole or len(self.paths) > 1 or self.path.is_dir():
            self._parts = {}

    def splits(self) -> tuple[str, ...]:
        return tuple(self._parts or self.paths)

    def read(self, split: str) -> Examples:
        if self._parts:
            self.paths = dict.fromkeys(SPLITS, self.paths["train"])
        return super().read(split)

    def read_file(self, path: pathlib.Path, split: str) -> Examples:
        with open_text(path) as file:
            text = file.read()
        first, last = self._parts.get(split, (0.0, 1.0))
        part = text[round(first * len(text)) : round(last * len(text))]
        if not part.strip():
            raise UserError(f"{path} has no text for the {split} split: it is too short.")
        line = text.count("\n", 0, round(first * len(text))) + 1
        return Examples([part], [None], np.array([line]), str(path))
