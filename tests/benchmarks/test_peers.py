"""What the benchmarks compare is the same thing; the peers that need no other packages show it."""

import numpy as np
import pytest

from benchmarks import workload
from benchmarks.interface import PEERS, Batch, Training
from benchmarks.peers import Outcome, chosen, installed, markdown, started
from train_lib.errors import UserError

TRAINING = Training(
    vocabulary_size=30,
    embedding_size=3,
    hidden_sizes=(4, 2),
    bidirectional=True,
    dropout_rates=(0.3, 0.2),
    masked=True,
)


def make_batch():
    """Two of every length, since the check takes every eighth review of a batch."""
    rng = np.random.default_rng(0)
    lengths_B = np.tile(np.arange(1, 9, dtype=np.int32), 4).repeat(8)
    tokens_BxT = rng.integers(1, 30, (len(lengths_B), 8)).astype(np.int32)
    tokens_BxT[np.arange(8) >= lengths_B[:, None]] = 0
    return Batch(tokens_BxT, lengths_B, rng.integers(0, 2, len(lengths_B)).astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["flax-nnx"])
def test_a_peer_computes_what_this_project_does(tmp_path, peer):
    weights = workload.draw_weights(TRAINING)
    with started(["ours", peer]) as workers:
        ours, theirs = (
            Outcome.of(worker, TRAINING, weights, make_batch()) for worker in workers.values()
        )
        assert theirs.differences(ours, PEERS[peer].loss_tolerance) == []
        # A gradient of nothing is no evidence.
        assert all(np.abs(gradient).max() > 0 for gradient in ours.gradients.values())

        theirs.gradients["head.bias"] = theirs.gradients["head.bias"] * 1.01
        (difference,) = theirs.differences(ours, PEERS[peer].loss_tolerance)
        assert "head.bias" in difference


def test_a_peer_that_is_not_installed_is_left_out(monkeypatch, capsys):
    entry = PEERS["torch-packed"]._replace(packages=("no_such_package",))
    monkeypatch.setitem(PEERS, "torch-packed", entry)
    assert installed(["ours", "torch-packed"]) == ["ours"]
    assert "pip install -r benchmarks/requirements.txt" in capsys.readouterr().out


def test_an_unknown_choice_is_refused():
    with pytest.raises(UserError, match="there is no torhc; choose from ours"):
        chosen("peers", "ours,torhc", list(PEERS))


def test_a_table_is_aligned():
    lines = markdown("title", "peer | seconds", ["ours | 1.5", "another | 10.25"]).splitlines()
    assert len({len(line) for line in lines[3:]}) == 1
