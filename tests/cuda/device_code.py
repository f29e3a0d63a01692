#!/usr/bin/env python3
"""Checks what nvcc made of the kernels: machine code for every architecture, nothing spilled to local memory.

Reads the objects and the ptxas logs of a build (cuda_ext/CMakeLists.txt keeps them). Architectures are read by cuobjdump where
it is installed, and from the embedded ELF headers in any case. Standard library only.

    tests/cuda/device_code.py BUILD [--architectures 80,90] [--table]      --table: registers and occupancy, as in the README
"""
import argparse
import pathlib
import re
import shutil
import struct
import subprocess
import sys

EM_CUDA = 190
THREADS = {"sinkhorn": 256, "state_products": 1024, "weighted_states": 1024, "depth_gate_mix": 1024,
           "cross_entropy_rows": 512, "kl_rows": 512, "rms_norm": 256, "rope_qk": 256,
           "diffuse": 256, "ddim_update": 256}
ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n.*?\n\s*(\d+) bytes stack frame, (\d+) bytes spill "
                   r"stores, (\d+) bytes spill loads\n.*?Used (\d+) registers([^\n]*)")


def embedded_architectures(path):
    data, found, at = path.read_bytes(), set(), 1
    while (at := data.find(b"\x7fELF", at)) > 0:
        machine, = struct.unpack_from("<H", data, at + 18)
        flags, = struct.unpack_from("<I", data, at + 48)
        if machine == EM_CUDA:
            found.add(flags >> 8 & 0xFF)
        at += 4
    return found


def cuobjdump_architectures(tool, path):
    listing = subprocess.run([tool, "--list-elf", str(path)], capture_output=True, text=True, check=True).stdout
    return {int(arch) for arch in re.findall(r"sm_(\d+)", listing)}


def demangle(names):
    tool = shutil.which("c++filt")
    if not tool:
        return names
    return subprocess.run([tool], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()


def kernels(log):
    """[(name, architecture, stack, spilled, registers, static shared bytes)] of one ptxas log."""
    rows = [(m[0], int(m[1]), int(m[2]), int(m[3]) + int(m[4]), int(m[5]),
             int((re.search(r"(\d+) bytes smem", m[6]) or [0, 0])[1])) for m in ENTRY.findall(log)]
    plain = demangle([row[0] for row in rows])
    short = [re.sub(r"^void |ctxc::cuda::|\(.*", "", name).replace("__nv_bfloat16", "bfloat16") for name in plain]
    return [(name, *row[1:]) for name, row in zip(short, rows)]


def occupancy(name, registers, shared):
    """Theoretical share of an H100 multiprocessor's 64 warps: 65536 registers in units of 8 a thread, 2048 threads, 228 KB."""
    threads = next(count for prefix, count in THREADS.items() if name.startswith(prefix))
    by_registers = 65536 // (-(-registers // 8) * 8 * threads)
    by_shared = 228 * 1024 // (shared + 1024)
    return min(2048 // threads, by_registers, by_shared, 32) * threads / 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--architectures", default="80,90")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    expected = {int(arch) for arch in arguments.architectures.split(",")}
    folder, problems, count = arguments.build / "cuda_ext", [], 0
    tool = shutil.which("cuobjdump")
    objects = sorted(folder.glob("*.o"))
    for path in objects:
        found = embedded_architectures(path)
        if found != expected:
            problems.append(f"{path.name}: code for {sorted(found)}, expected {sorted(expected)}")
        if tool and not expected <= cuobjdump_architectures(tool, path):
            problems.append(f"{path.name}: cuobjdump lists {sorted(cuobjdump_architectures(tool, path))}")
        rows = kernels(path.with_suffix(".ptxas.txt").read_text())
        if {row[1] for row in rows} != expected:
            problems.append(f"{path.name}: ptxas log of {sorted({row[1] for row in rows})}")
        for name, arch, stack, spilled, registers, shared in rows:
            count += 1
            if stack or spilled:
                problems.append(f"{name} for sm_{arch}: {stack} bytes of stack, {spilled} bytes spilled")
            if arguments.table and arch == 90:
                print(f"| `{name}` | {registers} | {shared} | {100 * occupancy(name, registers, shared):.0f} % |")
    if not objects or not count:
        problems.append(f"no kernels below {folder}")
    for problem in problems:
        print("error:", problem)
    if not arguments.table:
        print(f"{count} kernels in {len(objects)} objects, for {sorted(expected)}"
              + (", cuobjdump agrees" if tool and not problems else "" if tool else ", cuobjdump is not installed"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
