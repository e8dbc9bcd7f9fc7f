"""Compiles the engines' programs for TPUs and GPUs that are not here, and says what came of it.

python -m benchmarks.compiled --target=v5e
python -m benchmarks.compiled --target=h100 --cells=lstm,gru --out=/tmp

XLA compiles for these devices completely without having one, down to their instructions, and so
does NVIDIA's assembler. For every cell and engine, one layer of 64 units (and of more, where an
engine takes them) with a derivative, 128 sequences and 256 steps; for the reference models, an
update's gradient with 512 reviews of 2,494 words. It needs `benchmarks/requirements-compiled.txt`;
`docs/hardware.md` has the commands. Writes `compiled-TARGET.md` and `compiled-TARGET.json`.

Nothing is run: times are those of the compiler's model, which TPUs have, and GPUs do not.
"""

import argparse
import importlib.util
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

_GPU = """
platform_name: "CUDA"
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_core: {per_core}
  shared_memory_per_block_optin: {per_block} core_count: {cores} fpus_per_core: {units}
  l2_cache_size: {cache} memory_bandwidth: {bandwidth} clock_rate_ghz: {clock}
  device_memory_size: 85899345920 cuda_compute_capability {{ {capability} }}
}}
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""


class Target(NamedTuple):
    """A device to compile for.

    Attributes:
        platform: `tpu` or `cuda`.
        name: its topology's name, or its description, from the maker's published figures.
        capability: of a GPU, as `jax.Device.compute_capability`.
        architecture: of a GPU, for its assembler.
        clock_ghz: of a TPU, which turns modelled cycles into time; from its published peak.
    """

    platform: str
    name: str
    capability: str = ""
    architecture: str = ""
    clock_ghz: float = 0.0


TARGETS = {
    "v5e": Target("tpu", "v5e:1x1", clock_ghz=1.5),
    "v6e": Target("tpu", "v6e:1x1", clock_ghz=1.75),
    "h100": Target(
        "cuda",
        _GPU.format(
            name="NVIDIA H100 SXM", cores=132, units=128, per_core=233472, per_block=232448,
            cache=52428800, bandwidth=3350000000000, clock=1.98,
            capability="major: 9 feature_extension: ACCELERATED_FEATURES",
        ),
        "9.0", "sm_90a",
    ),
    "a100": Target(
        "cuda",
        _GPU.format(
            name="NVIDIA A100 SXM", cores=108, units=64, per_core=167936, per_block=166912,
            cache=41943040, bandwidth=2039000000000, clock=1.41, capability="major: 8",
        ),
        "8.0", "sm_80",
    ),
}  # fmt: skip
STEPS, ROWS, SIZE = 256, 128, 64
_LARGER = (128, 256, 512, 1024)
_KERNELS = ("forward", "backward")  # The names of the engines' own, but for underscores.
_REFERENCES = ("lstm", "bilstm", "stacked")
_REVIEWS, _LONGEST = 512, 2494
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument("--cells", default="", help="separated by commas; all by default")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    parser.add_argument("--strict", action="store_true", help="fail if a program cannot be made")
    parser.add_argument("--serve", type=int, help="for the program itself: cases from here on")
    options = parser.parse_args(argv)
    target = TARGETS[options.target]
    if missing := missing_packages(target):
        sys.exit(
            f"error: there is no {' and no '.join(missing)}; install what "
            "benchmarks/requirements-compiled.txt lists into an environment of its own."
        )
    if options.serve is not None:
        serve(target, [name for name in options.cells.split(",") if name], options.serve)
        return
    rows = []
    for row in served([sys.executable, "-m", "benchmarks.compiled", *argv]):
        rows.append(row)
        print(json.dumps(row), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"compiled-{options.target}"
    versions = next((row["versions"] for row in rows if row["versions"]), {})
    content = {"target": options.target, "versions": versions, "rows": rows}
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(content))
    if options.strict and (failed := [row for row in rows if "error" in row]):
        sys.exit(f"error: {len(failed)} programs cannot be compiled for {options.target}")


def serve(target: Target, cells: Sequence[str], first: int) -> None:
    """Prints a line before and after each case, from the `first` on."""
    with tempfile.TemporaryDirectory() as folder:
        compiler = Compiler(target, pathlib.Path(folder))
        for case in itertools.islice(cases(target, cells), first, None):
            row = {"case": case.title, "engine": case.engine, "H": case.hidden_size}
            print(json.dumps(row), flush=True)
            print(json.dumps(row | compiler.row(case)), flush=True)


def served(command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of all cases, in a process that is started again where a compiler crashes."""
    number, has_crashed = 0, True
    while has_crashed:
        with tempfile.TemporaryFile("w+") as errors:
            process = subprocess.Popen(
                [*command, f"--serve={number}"], stdout=subprocess.PIPE, stderr=errors, text=True
            )
            has_crashed = False
            for line in process.stdout or ():
                row = json.loads(line)
                if has_crashed := "versions" not in row:  # It has begun.
                    begun = row
                    continue
                number += 1
                yield row
            if process.wait() and not has_crashed:
                errors.seek(0)
                sys.stderr.write(errors.read())
                raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}")
        if has_crashed:
            number += 1
            yield begun | {"versions": {}, "error": "the compiler crashed"}


def missing_packages(target: Target) -> list[str]:
    """The packages without which nothing is compiled for a target."""
    names = ["libtpu"] if target.platform == "tpu" else ["jax_plugins.xla_cuda12"]

    def is_there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:  # The package that it is in.
            return False

    found = [name for name in names if not is_there(name)]
    if target.platform == "cuda" and _ptxas() is None:
        found.append("ptxas")
    return found


def _ptxas() -> str | None:
    for folder in sys.path:
        for path in pathlib.Path(folder).glob("nvidia/*/bin/ptxas"):
            return str(path)
    return shutil.which("ptxas")


class Case(NamedTuple):
    """A program to compile.

    Attributes:
        title: of its row.
        engine: the engine that runs the cells, and the dtype of matrices unless it is float32.
        hidden_size: H; None: as in the title's config.
        make: a function `() -> (function, arguments)`.
    """

    title: str
    engine: str
    hidden_size: int | None
    make: Callable[[], tuple[Callable, tuple]]


def cases(target: Target, cells: Sequence[str]) -> Iterator[Case]:
    """Every cell with every engine that it qualifies for there, then the reference models."""
    from flax import nnx

    from seqmodels import loading
    from seqmodels.recurrence import engines

    for name in cells or loading.cell_names():
        make = loading.find_cell(name)
        for engine, entry in engines.TABLE.items():
            for size in (SIZE, *_LARGER):
                if size > SIZE and engine != "fused":
                    continue
                cell = make(size, size, rngs=nnx.Rngs(0))
                if entry.why_not(cell) is not None or not _is_for(engine, target):
                    continue
                for dtype in ("float32", "bfloat16") if engine == "fused" else ("float32",):
                    title = engine if dtype == "float32" else f"{engine}, {dtype}"
                    run_by = engines.Engine(engine, dtype)
                    yield Case(name, title, size, lambda c=cell, e=run_by: _layer(c, e))
    for name in () if cells else _REFERENCES:
        yield Case(f"configs/{name}.py", "auto", None, lambda n=name: _reference(n))


def _is_for(engine: str, target: Target) -> bool:
    """Whether the engine has a program of its own for the platform."""
    return target.platform == "cuda" or engine not in ("cudnn", "fused", "pointwise")


def _layer(cell: Any, engine: Any) -> tuple[Callable, tuple]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from seqmodels.recurrence import engines

    graphdef, params = nnx.split(cell, nnx.Param)

    def loss(params, x_TxDxB, lengths_B):
        cells = [nnx.merge(graphdef, params)]
        run = engines.run_all(engine, cells, [False], [x_TxDxB], lengths_B)
        return jnp.sum(run[0].last_HxB)

    size = cell.hidden_size
    arrays = params, jnp.zeros((STEPS, size, ROWS)), jnp.zeros(ROWS, jnp.int32)
    return jax.value_and_grad(loss, (0, 1)), arrays


def _reference(name: str) -> tuple[Callable, tuple]:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from benchmarks import workload

    config = workload.config_of(name, masked=True)
    model = workload.build_model(workload.training_of(config))
    graphdef, params = nnx.split(model, nnx.Param)

    def loss(params, tokens_BxT, lengths_B, key):
        keys_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(_REVIEWS))
        model = nnx.merge(graphdef, params)
        return jnp.sum(model(tokens_BxT, lengths_B, dropout_keys_B=keys_B))

    tokens_BxT = jnp.zeros((_REVIEWS, _LONGEST), jnp.int32)
    arrays = params, tokens_BxT, jnp.zeros(_REVIEWS, jnp.int32), jax.random.key(0)
    return jax.value_and_grad(loss), arrays


class Compiler:
    """Compiles for one target, in a process that does nothing else.

    Args:
        target: the device.
        dumped: an empty folder for what the compiler writes.
    """

    def __init__(self, target: Target, dumped: pathlib.Path):
        os.environ |= _ENVIRONMENT
        import jax
        import numpy as np
        from jax.experimental import topologies
        from jax.sharding import Mesh, NamedSharding, PartitionSpec
        from jaxlib import gpu_rnn

        from seqmodels import program

        os.environ["XLA_FLAGS"] = program.COMPILER_FLAGS  # As in a run; others ignore them.
        if target.platform == "cuda":
            os.environ["XLA_FLAGS"] += f" --xla_dump_to={dumped}"
        if target.platform == "tpu":
            topology = topologies.get_topology_desc(
                target.name, platform="tpu", chips_per_host_bounds=(1, 1, 1)
            )
        else:
            topology = topologies.get_topology_desc(
                platform="cuda", target_config=target.name, topology="1x1x1"
            )
        self._target, self._dumped = target, dumped
        self._place = NamedSharding(Mesh(np.array(topology.devices), "device"), PartitionSpec())
        self.versions = {"jax": jax.__version__}
        # The engines are chosen as on the device itself.
        backend = {"tpu": "tpu", "cuda": "gpu"}[target.platform]
        jax.default_backend = lambda: backend
        device = SimpleNamespace(
            compute_capability=target.capability, client=SimpleNamespace(platform_version="cuda")
        )
        jax.local_devices = lambda *_, **__: [device]
        # A callback, with which the engine newton warns, lowers only where it will run.
        jax.debug.callback = lambda *_: None
        # cuDNN itself, which would say, is not here.
        gpu_rnn.compute_rnn_workspace_reserve_space_sizes = lambda *_: (2**20, 2**20)

    def row(self, case: Case) -> dict[str, Any]:
        """What the compilers say of a case, or why they refuse it."""
        row: dict[str, Any] = {"versions": self.versions}
        for path in self._dumped.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        try:
            return row | self._compile(case)
        except Exception as error:  # A compiler's; the others go on.
            return row | {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}

    def _compile(self, case: Case) -> dict[str, Any]:
        import jax

        from benchmarks import compiler_output

        function, arrays = case.make()
        placed = jax.tree.map(
            lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=self._place), arrays
        )
        platforms = (self._target.platform,)
        lowered = jax.jit(function).trace(*placed).lower(lowering_platforms=platforms)
        start = time.perf_counter()
        compiled = lowered.compile()
        found: dict[str, Any] = {
            "compile_s": time.perf_counter() - start,
            "peak_bytes": compiled.memory_analysis().peak_memory_in_bytes,
        }
        loops = compiler_output.loops(compiled.as_text())
        for name, is_backward in (("forward", False), ("backward", True)):
            own = [loop for loop in loops if loop.is_backward == is_backward]
            found[name] = {
                "operations": sum(loop.operations for loop in own),
                "moves": sum(loop.moves for loop in own),
            }
            if self._target.clock_ghz and own:
                cycles = sum(loop.cycles or 0 for loop in own)
                found[name]["us"] = cycles / self._target.clock_ghz / 1e3
        if self._target.platform == "cuda":
            kernels = compiler_output.kernels(
                self._dumped, _KERNELS, _ptxas() or "", self._target.architecture
            )
            found["kernels"] = [one._asdict() for one in kernels]
        return found


def table(content: dict[str, Any]) -> str:
    """The rows as Markdown."""
    on_tpu = TARGETS[content["target"]].platform == "tpu"
    last = "us a step, modelled" if on_tpu else "kernels: threads, registers, spilled, shared"
    lines = [
        f"# Compiled for {content['target']}",
        "",
        f"Made by `python -m benchmarks.compiled --target={content['target']}` (jax "
        f"{content['versions'].get('jax', 'unknown')}). Nothing was run.",
        "A layer has as many inputs as units, 128 sequences and 256 steps; a reference model has",
        "512 reviews of 2,494 words. Operations are those of a time step in loops, forwards +",
        "backwards, all layers of a model together; moves are those that only copy or transpose. A",
        "step of `newton` is an iteration over all times, one of `chunkwise` a chunk of 16.",
        "",
        f"| | engine | H | compiling, s | peak memory, MiB | operations a step | moves | {last} |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        begin = f"| {row['case']} | {row['engine']} | {row['H'] or ''} |"
        if "error" in row:
            lines.append(f"{begin} {row['error']} | | | | |")
            continue
        both = row["forward"], row["backward"]
        operations, moves = (
            " + ".join(str(one[name]) for one in both) for name in ("operations", "moves")
        )
        if on_tpu:
            end = " + ".join(f"{one['us']:.1f}" if "us" in one else "no loop" for one in both)
        else:
            end = "; ".join(
                f"{one['name']}: {one['threads']}, {one['registers']}, {one['spilled_bytes']}, "
                f"{one['shared_bytes']}"
                for one in row.get("kernels", [])
            )
        memory = f"{row['peak_bytes'] / 2**20:,.0f}"
        lines.append(
            f"{begin} {row['compile_s']:.1f} | {memory} | {operations} | {moves} | {end} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
