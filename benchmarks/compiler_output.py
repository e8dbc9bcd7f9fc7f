"""Reads what XLA and NVIDIA's assembler say about a compiled program."""

import pathlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_FREE = {"parameter", "tuple", "get-tuple-element", "constant", "bitcast", "after-all"}
"""Instructions that do nothing when a program runs."""
_MOVES = {"copy", "copy-start", "transpose"}


class Loop(NamedTuple):
    """What one iteration of a loop that contains no other loop does.

    Attributes:
        is_backward: whether it belongs to a derivative.
        operations: the number of operations that are launched one after another.
        moves: how many of them only copy or transpose an array.
        cycles: modelled; None where the compiler has no model.
    """

    is_backward: bool
    operations: int
    moves: int
    cycles: int | None


class Kernel(NamedTuple):
    """A GPU kernel.

    Attributes:
        name: its name.
        threads: of a block.
        shared_bytes: shared memory of a block.
        registers: of a thread.
        spilled_bytes: what a thread stores to memory because it has too few of them.
    """

    name: str
    threads: int
    shared_bytes: int
    registers: int
    spilled_bytes: int


def computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation of a module in HLO text, by its name."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
            name = header[1]
            found[name] = []
        elif " = " in line and name:
            found[name].append(line.strip())
    return found


def loops(text: str) -> list[Loop]:
    """The innermost loops of an optimised module, without those that look up or add up rows."""
    bodies = computations(text)
    found = []
    for lines in bodies.values():
        for line in lines:
            if " while(" not in line or not (body := re.search(r"body=%([\w.-]+)", line)):
                continue
            inside = bodies[body[1]]
            called = [each for one in inside for each in _called(one, bodies)]
            if any(" while(" in one for one in inside):
                continue
            if any(re.search(r" (gather|scatter)\(", one) for one in [*inside, *called]):
                continue
            found.append(_loop("transpose(" in _of(line, "op_name"), inside))
    return found


def _loop(is_backward: bool, instructions: list[str]) -> Loop:
    launched = [one for one in instructions if _opcode(one) not in _FREE]
    cycles = [int(n) for one in launched for n in re.findall(r'estimated_cycles":"(\d+)"', one)]
    moves = sum(_opcode(one) in _MOVES for one in launched)
    return Loop(is_backward, len(launched), moves, sum(cycles) if cycles else None)


def _opcode(instruction: str) -> str:
    # After the type, which has no blank before an opening bracket.
    found = re.search(r" ([a-z][\w-]*)\(", instruction.partition(" = ")[2])
    return found[1] if found else ""


def _called(instruction: str, bodies: dict[str, list[str]]) -> Iterator[str]:
    for name in re.findall(r"calls=%([\w.-]+)", instruction):
        yield from bodies.get(name, [])


def _of(instruction: str, field: str) -> str:
    found = re.search(rf'{field}="([^"]*)"', instruction)
    return found[1] if found else ""


def kernels(
    dumped: pathlib.Path, names: Sequence[str], ptxas: str, architecture: str
) -> list[Kernel]:
    """Kernels of a program whose dump is in a folder, assembled once more for the figures.

    Args:
        dumped: the folder.
        names: those of the kernels, in their order and but for underscores around them; there may
            be many others.
        ptxas: the assembler.
        architecture: what it assembles for.
    """
    launches = {}
    for path in dumped.glob("*.thunk_sequence.txt"):
        for name, threads, shared in re.findall(
            r"(\S+) grid: \[.*?\] threads: \[(.*?)\]\s+shared_memory: (\d+) bytes", path.read_text()
        ):
            x, y, z = map(int, threads.split(","))
            launches[name] = x * y * z, int(shared)
    found = []
    for path in sorted(dumped.glob("*.ptx")):
        entries = re.findall(r"\.entry ([\w$]+)", path.read_text())
        if not any(name.strip("_") in names for name in entries):
            continue
        said = subprocess.run(
            [ptxas, "-v", f"-arch={architecture}", str(path), "-o", "/dev/null"],
            capture_output=True, text=True,
        ).stderr  # fmt: skip
        for part in said.split("Compiling entry function")[1:]:
            name = re.search(r"'(.*?)'", part)[1]
            threads, shared = launches.get(name, (0, 0))
            static = re.search(r"(\d+) bytes smem", part)
            spilled = max(map(int, re.findall(r"(\d+) bytes spill", part)), default=0)
            registers = int(re.search(r"Used (\d+) registers", part)[1])
            shared = max(shared, int(static[1]) if static else 0)
            found.append(Kernel(name, threads, shared, registers, spilled))
    # The compiler numbers its files as it finishes them.
    order = {name: place for place, name in enumerate(names)}
    return sorted(found, key=lambda kernel: order.get(kernel.name.strip("_"), len(order)))
