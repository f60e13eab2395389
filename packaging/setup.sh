#!/usr/bin/env bash
# Makes .venv (agent, publisher, tests) and .venv-paddle (the engine), each kept by the hash of its pinned requirements:
# a second run does nothing. Nothing outside the project folder is changed.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $1"; say "       $2"; exit 1; }

find_python() {
    # Oldest first: the engine has wheels for 3.11 to 3.13, and 3.11 is what is tested most.
    local name
    for name in python3.11 python3.12 python3.13 python3; do
        if command -v "$name" >/dev/null 2>&1 &&
            "$name" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found" "Install one, for example: apt-get install python3 python3-venv"
}

make_venv() { # folder, requirements file, title
    local folder=$1 requirements=$2 title=$3 stamp
    stamp=$({ "$PYTHON" -VV; cat "$requirements" pyproject.toml; } | sha256sum | cut -d' ' -f1)
    [ "$(cat "$folder/.stamp" 2>/dev/null)" = "$stamp" ] && return
    say "setup: $title (once; kept until $requirements changes)"
    rm -rf "$folder"
    "$PYTHON" -m venv "$folder" 2>/dev/null || { rm -rf "$folder"
        fail "cannot make a virtual environment with $PYTHON" "Install its venv module, for example: apt-get install python3-venv"; }
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements" >&2 ||
        fail "could not install $requirements" "Check the network and the disk, then run the same command again"
    if [ "$folder" = .venv ]; then
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2 ||
            fail "could not install the project into $folder" "Read the lines above"
    fi
    printf '%s' "$stamp" >"$folder/.stamp" # last: a set-up that was cut off is done again
}

PYTHON=$(find_python)
[ -n "$PYTHON" ] || exit 1
exec 9>.setup.lock
flock 9 # two at once: the second waits and then finds everything done
make_venv .venv requirements/dev.txt "agent, publisher and test tools"
make_venv .venv-paddle requirements/engine-paddle.txt "the Paddle engine, about 1 GB"
