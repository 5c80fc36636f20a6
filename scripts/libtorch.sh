#!/usr/bin/env bash
# Puts the CPU half of libtorch 2.11.0 into third_party/libtorch, once. An existing $LIBTORCH is left alone.
#
# The PyPI wheel holds headers and libraries for CPU and CUDA. Only what a CPU needs is unpacked, so that the worker
# starts on a machine without any CUDA library; on a GPU node the same binary opens the full wheel's libtorch_cuda.so
# at start (docs/operations.md).
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${LIBTORCH:-}" ] && [ "$(realpath -m "$LIBTORCH")" != "$PWD/third_party/libtorch" ]; then
    [ -d "$LIBTORCH/lib" ] || { echo "LIBTORCH is set to $LIBTORCH, which has no lib folder; unset it or point it at libtorch 2.11.0" >&2; exit 1; }
    echo "libtorch: using LIBTORCH=$LIBTORCH"
    exit 0
fi

stamp=third_party/libtorch/.complete
want=$(sha256sum scripts/libtorch.requirements scripts/libtorch.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ]; then exit 0; fi

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) echo "libtorch: no pinned package for $(uname -s) $(uname -m); install libtorch 2.11.0 yourself and set LIBTORCH to it" >&2; exit 1 ;;
esac

echo "libtorch: downloading torch 2.11.0 from PyPI (540 MB, once)"
rm -rf third_party/libtorch third_party/libtorch.partial third_party/wheels
mkdir -p third_party/wheels third_party/libtorch.partial/lib
# pip checks the sha256 of each file. The libraries do not depend on the Python version; 3.11 just picks one wheel.
# --no-cache-dir: pip's cache may lie on a small disk, and the unpacked folder is what is kept.
python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.11 --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 \
    --dest third_party/wheels --requirement scripts/libtorch.requirements

python3 - <<'PY'
import pathlib, shutil, zipfile

out = pathlib.Path("third_party/libtorch.partial")
libraries = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
for wheel in pathlib.Path("third_party/wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = pathlib.PurePosixPath(member)
            if member.startswith("torch/include/") and not member.endswith("/"):
                target = out / path.relative_to("torch")
            elif path.name in libraries and path.parent.name == "lib":
                target = out / "lib" / path.name
            else:
                continue
            if not target.resolve().is_relative_to(out.resolve()):
                raise SystemExit(f"{wheel}: {member} lies outside of its folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as sink:
                shutil.copyfileobj(source, sink)
missing = libraries - {p.name for p in (out / "lib").iterdir()}
if missing:
    raise SystemExit(f"the wheels lack {sorted(missing)}")
PY

# The linker asks for libtorch.so; in the wheel it is a shell that pulls in CUDA, and nothing in it is used.
echo | ${CC:-cc} -shared -fPIC -x c - -o third_party/libtorch.partial/lib/libtorch.so -Wl,-soname,libtorch.so
rm -rf third_party/wheels
mv third_party/libtorch.partial third_party/libtorch
echo "$want" > "$stamp"
echo "libtorch: ready in third_party/libtorch"
