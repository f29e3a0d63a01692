"""Lets `import torch` (a CUDA build) succeed on a machine without CUDA libraries.

torch/lib/libtorch_cuda.so names some fifteen NVIDIA libraries (3 GB of wheels) that a CPU program never calls, but that
the dynamic linker wants to see. This makes a library with each name that is missing, which holds a function for every
symbol that is unresolved then. Calling such a function aborts, so nothing can go wrong silently.
Run with the Python of the environment; needs a C compiler and binutils.
"""
import pathlib
import subprocess
import sys
import sysconfig

LIB = pathlib.Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def unresolved(library):
    """Names of missing libraries and unresolved symbols, as the dynamic linker reports them."""
    listing = subprocess.run(["ldd", "-r", str(library)], capture_output=True, text=True)
    missing, symbols = set(), set()
    for line in (listing.stdout + listing.stderr).splitlines():
        words = line.split()
        if "not found" in line and "=>" in words:
            missing.add(words[0])
        elif words[:2] == ["undefined", "symbol:"]:
            symbols.add(words[2].rstrip(",").split("@")[0])
        elif words[:1] == ["symbol"] and "not defined in file" in line:
            symbols.add(words[1].rstrip(","))
    return missing, symbols


def build(name, symbols):
    # .quad keeps the symbol a plain function; data symbols of these libraries are not used by torch.
    lines = [".text"]
    for symbol in sorted(symbols):
        lines += [f".globl {symbol}", f".type {symbol}, @function", f"{symbol}:", "ud2"]
    lines.append('.section .note.GNU-stack,"",@progbits')
    source = LIB / "placeholder.s"
    source.write_text("\n".join(lines) + "\n")
    run("gcc", "-shared", "-nostdlib", f"-Wl,-soname,{name}", "-o", str(LIB / name), str(source))
    source.unlink()


def main():
    cuda = LIB / "libtorch_cuda.so"
    if not cuda.exists():
        sys.exit(f"error: {cuda} is missing")
    made = []
    for library in sorted(LIB.glob("lib*.so*")):
        missing, _ = unresolved(library)
        for name in sorted(missing):
            build(name, set())
            made.append(name)
    # The linker looks a symbol up in what the asking library itself links, so each gets all of them; never those that
    # torch's own libraries define, which they find once Python has loaded them together.
    own, wanted = set(), set()
    for library in sorted(LIB.glob("lib*.so*")):
        if library.name not in made:
            own |= {line.split()[-1].split("@")[0] for line in run("nm", "-D", "--defined-only", str(library)).splitlines()}
            wanted |= unresolved(library)[1]
    symbols = {symbol for symbol in wanted - own if not symbol.startswith(("Py", "_Py"))}
    for name in made:
        build(name, symbols)
    print(f"[interop] {len(made)} CUDA libraries replaced by empty ones with {len(symbols)} symbols")


if __name__ == "__main__":
    main()
