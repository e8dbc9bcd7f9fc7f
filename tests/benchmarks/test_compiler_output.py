"""What is read from the texts of XLA and of NVIDIA's assembler, on pieces of real ones."""

import stat

import pytest

from benchmarks import compiled, compiler_output

MODULE = """HloModule jit_loss, is_scheduled=true

%looked_up (param_0.1: f32[9,2]) -> f32[2] {
  %param_0.1 = f32[9,2]{1,0} parameter(0)
  ROOT %gather.1 = f32[2]{0} gather(%param_0.1), offset_dims={0}
}

%lookup_body (arg.1: (s32[], f32[9,2])) -> (s32[], f32[9,2]) {
  %arg.1 = (s32[], f32[9,2]{1,0}) parameter(0)
  %gte.1 = f32[9,2]{1,0} get-tuple-element(%arg.1), index=1
  %fusion.1 = f32[2]{0} fusion(%gte.1), kind=kCustom, calls=%looked_up
  ROOT %tuple.1 = (s32[], f32[9,2]{1,0}) tuple(%gte.1)
}

%step_body (arg.2: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %arg.2 = (s32[], f32[4,8]{1,0}) parameter(0)
  %gte.2 = f32[4,8]{1,0} get-tuple-element(%arg.2), index=1
  %convolution.1 = f32[4,8]{1,0:T(8,128)} convolution(%gte.2), backend_config={"estimated_cycles":"640"}
  %copy.1 = f32[4,8]{0,1:T(8,128)} copy(%convolution.1), backend_config={"estimated_cycles":"2000"}
  %fusion.2 = (f32[4,8]{1,0}, f32[4,8]{1,0}) fusion(%copy.1), calls=%f, backend_config={"estimated_cycles":"1860"}
  ROOT %tuple.2 = (s32[], f32[4,8]{1,0}) tuple(%fusion.2)
}

ENTRY %main.1 (p: f32[9,2]) -> f32[4,8] {
  %p = f32[9,2]{1,0} parameter(0)
  %while.1 = (s32[], f32[9,2]{1,0}) while(%p), condition=%c, body=%lookup_body, metadata={op_name="jit(loss)/jvp()/while"}
  %while.2 = (s32[], f32[4,8]{1,0}) while(%p), condition=%c, body=%step_body, metadata={op_name="jit(loss)/jvp()/while"}
  %while.3 = (s32[], f32[4,8]{1,0}) while(%p), condition=%c, body=%step_body, metadata={op_name="jit(loss)/transpose(jvp())/while"}
}
"""  # noqa: E501

ASSEMBLER = """#!/bin/sh
cat >&2 <<'END'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'backward' for 'sm_80'
ptxas info    : Function properties for backward
    240 bytes stack frame, 280 bytes spill stores, 804 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 8192 bytes smem, 416 bytes cmem[0]
END
"""


def test_loops_are_counted_without_look_ups():
    forward, backward = compiler_output.loops(MODULE)
    assert (forward.is_backward, backward.is_backward) == (False, True)
    assert forward._replace(is_backward=True) == backward
    assert (forward.operations, forward.moves, forward.cycles) == (3, 1, 4500)


def test_without_a_model_there_are_no_cycles():
    text = MODULE.replace("estimated_cycles", "other")
    assert [loop.cycles for loop in compiler_output.loops(text)] == [None, None]


def test_kernels_are_those_asked_for(tmp_path):
    (tmp_path / "x.thunk_sequence.txt").write_text(
        "001: kKernel backward grid: [4, 1, 1] threads: [128, 1, 1]    shared_memory: 16384 bytes\n"
    )
    (tmp_path / "x.ptx").write_text(".visible .entry backward(\n")
    (tmp_path / "other.ptx").write_text(".visible .entry loop_fusion(\n")
    assembler = tmp_path / "ptxas"
    assembler.write_text(ASSEMBLER)
    assembler.chmod(assembler.stat().st_mode | stat.S_IEXEC)
    (kernel,) = compiler_output.kernels(tmp_path, ["backward"], str(assembler), "sm_80")
    assert kernel == compiler_output.Kernel("backward", 128, 16384, 255, 804)


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_a_table_says_what_failed_and_what_has_no_loop(target):
    begin = {"engine": "parallel", "H": 64}
    both = {"operations": 3, "moves": 1}
    kernel = compiler_output.Kernel("backward", 128, 1, 2, 3)
    made = {
        "versions": {"jax": "1"}, "compile_s": 1.0, "peak_bytes": 2**20, "forward": both,
        "backward": {**both, "us": 2.5}, "kernels": [kernel._asdict()],
    }  # fmt: skip
    rows = [
        {"case": "qrnn", **begin, "versions": {}, "error": "the compiler crashed"},
        {"case": "min_gru", **begin, **made},
    ]
    *_, failed, made = compiled.table(
        {"target": target, "versions": {"jax": "1"}, "rows": rows}
    ).splitlines()
    assert failed == "| qrnn | parallel | 64 | the compiler crashed | | | | |"
    end = {"v5e": "no loop + 2.5", "h100": "backward: 128, 2, 3, 1"}[target]
    assert made == f"| min_gru | parallel | 64 | 1.0 | 1 | 3 + 3 | 1 + 1 | {end} |"
