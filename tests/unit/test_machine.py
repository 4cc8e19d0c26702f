import pytest

from ebseg.machine import UNKNOWN, read_cpuinfo, this_machine

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu avx512f avx_vnni avx512_bf16 avx512_vnni amx_tile

processor\t: 1
model name\t: another
flags\t\t: fpu amx_bf16
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (XEON, ("Intel(R) Xeon(R) Processor", "avx512f avx512_vnni avx_vnni avx512_bf16")),
        ("model name\t: old\nflags\t\t: fpu avx2\n", ("old", "")),
        ("model name\t: no flags\nFeatures\t: asimd\n", ("no flags", UNKNOWN)),
    ],
)
def test_a_cpus_name_and_instructions_are_read(content, expected):
    assert read_cpuinfo(content) == expected


def test_elsewhere_the_instructions_are_not_known():
    name, instructions = read_cpuinfo("")
    assert name and instructions == UNKNOWN


def test_this_machine_has_a_core_and_a_thread():
    machine = this_machine()
    assert machine.cores >= 1 and machine.threads >= 1 and machine.cpu
