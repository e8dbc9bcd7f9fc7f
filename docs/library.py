"""Three uses of the library, in cells: the mean of the first feature of sequences of any length."""

# %% An encoder in a training loop of one's own.
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from seqmodels import LSTM, Encoder, Last, SequenceHead, SequenceModel, Unidirectional, Vectors
from train_lib.data.dataset import Split
from train_lib.tasks.base import Task
from train_lib.training import Program, fit

rng = np.random.default_rng(0)
sequences = [rng.normal(size=(length, 3)) for length in rng.integers(1, 10, 640)]
means = [float(one[:, 0].mean()) for one in sequences]
lengths_B = jnp.array([len(one) for one in sequences])
x_BxTxD = jnp.array([np.pad(one, [(0, 9 - len(one)), (0, 0)]) for one in sequences], jnp.float32)


def loss_of(modules, targets_B):
    encoding = modules["encoder"](x_BxTxD, lengths_B)
    return jnp.mean((modules["linear"](encoding.last_BxH)[:, 0] - targets_B) ** 2)


rngs = nnx.Rngs(0)
encoder = Encoder([Unidirectional(LSTM(3, 16, rngs=rngs))])
modules = nnx.Dict(encoder=encoder, linear=nnx.Linear(16, 1, rngs=rngs))
optimizer, step = (
    nnx.Optimizer(modules, optax.adam(1e-2), wrt=nnx.Param),
    nnx.value_and_grad(loss_of),
)
for _ in range(50):
    loss, gradient = nnx.jit(step)(modules, jnp.array(means))
    optimizer.update(modules, gradient)
print(f"own loop: loss {loss:.3f}")


# %% `fit`, with a model, a task and arrays of one's own, of two seeds at once.
class Huber(Task):
    num_outputs = 1

    def encode(self, targets):
        return np.array(targets, np.float32)

    def loss(self, outputs_NxC, targets_N):
        return optax.huber_loss(outputs_NxC[:, 0], targets_N)


def build(rngs):
    encoder = Encoder([Unidirectional(LSTM(3, 16, rngs=rngs))])
    return SequenceModel(Vectors(3), encoder, SequenceHead(Last(16, rngs=rngs), 1, rngs=rngs))


program = Program([build(nnx.Rngs(k)) for k in (0, 1)], Huber(), optax.adam(1e-2), batch_size=32)
data = Split.of(sequences, means).encoded(program.task)
train, validation = data.take(np.arange(512)), data.take(np.arange(512, 640))
fitted = fit(program, train, validation, seeds=[0, 1], num_epochs=5)
print(f"fit: validation losses {fitted.validation.metrics['loss']}")

# %% A cell in a scan of one's own.
cell = LSTM(3, 16, rngs=nnx.Rngs(0))
last_carry, y_TxH = jax.lax.scan(
    lambda carry, x_D: cell.step(carry, cell.project(x_D)), cell.initial_carry(), x_BxTxD[0]
)
