"""Compiles one CUDA source with NVRTC for several architectures. Called by `cargo xtask kernels`.

compile.py LIBNVRTC SOURCE.cu OUT_DIR FLAGS ARCH...   writes OUT_DIR/NAME.ARCH.cubin; headers are those beside the source
"""

import ctypes
import pathlib
import sys


def compile_one(nvrtc, source, headers, flags, arch):
    """Machine code of `source`, or an error with NVRTC's log."""
    program = ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*[header.name.encode() for header in headers])
    texts = (ctypes.c_char_p * len(headers))(*[header.read_bytes() for header in headers])
    made = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.read_bytes(), source.name.encode(), len(headers), texts, names
    )
    if made:
        raise SystemExit(f"{source}: NVRTC error {made}")
    options = [*flags.split(), f"--gpu-architecture={arch}"]
    result = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    )
    if result:
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        raise SystemExit(f"{source} for {arch}: NVRTC error {result}\n{log.value.decode()}")
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw[: size.value]


def main():
    library, source, out, flags, *archs = sys.argv[1:]
    source, out = pathlib.Path(source), pathlib.Path(out)
    nvrtc = ctypes.CDLL(library)
    headers = sorted(source.parent.glob("*.cuh"))
    for arch in archs:
        code = compile_one(nvrtc, source, headers, flags, arch)
        (out / f"{source.stem}.{arch}.cubin").write_bytes(code)


if __name__ == "__main__":
    main()
