#!/usr/bin/env bash
# Makes .venv (agent, publisher, coordinator, tests), .venv-paddle (the engine) and, where a Python 3.7 or 3.8 is found,
# .venv-py37 (the oldest interpreter that a worker may have) from pinned requirements; where the machine has no MQTT broker it
# brings one into .broker (broker/bring.sh), and strace into .strace (strace/bring.sh). How to install on a device is not said here.
# Each environment is kept by the hash of its requirements: a second run does nothing. The stamp is written last, so
# that a set-up that was cut off is done again. Nothing outside the project folder is changed.
# HOLDFAST_PYTHON names another interpreter than the one that would be chosen, HOLDFAST_OLD_PYTHON another old one.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$1"; say "$2"; exit 1; }

usable() { # 3.11 to 3.13: the agent wants the first, the engine has no wheels beyond the last
    "$1" -c 'import sys; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 13)))' >/dev/null 2>&1
}

find_python() { # oldest first: 3.11 is what the pins were made and are tested with
    local name without_venv=
    for name in ${HOLDFAST_PYTHON:-python3.11 python3.12 python3.13 python3}; do
        usable "$name" || continue
        if "$name" -c 'import venv, ensurepip' 2>/dev/null; then
            command -v "$name"
            return
        fi
        without_venv=$name
    done
    [ -z "$without_venv" ] ||
        fail "$without_venv cannot make virtual environments" "Install its venv module, for example: apt-get install python3-venv"
    fail "no Python 3.11, 3.12 or 3.13 found (looked for: ${HOLDFAST_PYTHON:-python3.11 python3.12 python3.13 python3})" \
        "Install one, for example: apt-get install python3 python3-venv; or name one: HOLDFAST_PYTHON=/path/to/python make setup"
}

find_old_python() { # 3.7 before 3.8; a shim of pyenv may be there and not run, the versions behind it do
    local name
    for name in ${HOLDFAST_OLD_PYTHON:-python3.7 python3.8 $(old_pythons_of_pyenv)}; do
        "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 7), (3, 8)))' >/dev/null 2>&1 || continue
        command -v "$name"
        return
    done
}

old_pythons_of_pyenv() {
    local root python
    root=$(pyenv root 2>/dev/null) || return 0
    for python in "$root"/versions/3.7.*/bin/python "$root"/versions/3.8.*/bin/python; do
        printf '%s\n' "$python"
    done
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

hash_of() { sha256sum | cut -d' ' -f1; }

holds() { # folder, stamp file, stamp: was this made, and does its interpreter still start?
    [ "$(cat "$1/$2" 2>/dev/null)" = "$3" ] && "$1/bin/python" -c '' 2>/dev/null
}

install() { # folder, arguments of pip; one line per download on stderr, everything in a log
    local folder=$1 log=$1/setup.log
    shift
    "$folder/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off "$@" 2>>"$log" |
        tee -a "$log" |
        sed -un 's/^ *Downloading .*\/\([^ ]*\) \((.*)\)$/setup:   \1 \2/p; s/^ *Downloading \([^/]*\)$/setup:   \1/p
                 s/^Installing collected packages.*/setup:   unpacking/p' >&2 && return
    tail -n 15 "$log" >&2
    return 1
}

make_venv() { # folder, requirements file, title, interpreter
    local folder=$1 requirements=$2 title=$3 python=$4 stamp
    stamp=$({ version_of "$python"; cat "$requirements"; } | hash_of)
    holds "$folder" .stamp "$stamp" && return
    say "$folder: $title (once; kept until $requirements changes)"
    rm -rf "$folder"
    "$python" -m venv "$folder" || { rm -rf "$folder"
        fail "cannot make a virtual environment with $python" "Install its venv module, for example: apt-get install python3-venv"; }
    install "$folder" --require-hashes -r "$requirements" ||
        fail "could not install $requirements (above: the end of $folder/setup.log)" \
            "Check the network and the disk (2 GB are needed), then run the same command again"
    printf '%s' "$stamp" >"$folder/.stamp"
}

install_project() { # the commands edge-agent, fleet and cloud-sync, into .venv
    local stamp
    stamp=$(sed '/^\[tool\.ruff/,$d' pyproject.toml | hash_of) # what follows there is no matter of installation
    holds .venv .stamp-project "$stamp" && return
    say ".venv: the commands of the project"
    install .venv --no-deps --no-build-isolation --editable . ||
        fail "could not install the project into .venv (above: the end of .venv/setup.log)" "Mend pyproject.toml, then run the same command again"
    printf '%s' "$stamp" >.venv/.stamp-project
}

PYTHON=$(find_python) || exit 1
OLD_PYTHON=$(find_old_python)
exec 9>.setup.lock
flock --nonblock 9 || { say "another set-up is running; waiting for it"; flock 9; }
make_venv .venv requirements/dev.txt "agent, publisher, coordinator and test tools" "$PYTHON"
install_project
make_venv .venv-paddle requirements/engine-paddle.txt "the Paddle engine, about 1 GB" "$PYTHON"
if [ -n "$OLD_PYTHON" ]; then
    # in a shell of its own: without it a device, the demonstration and all other tests are whole
    (make_venv .venv-py37 requirements/worker-py37.txt "the worker's oldest interpreter, for tests" "$OLD_PYTHON") ||
        say "going on without .venv-py37: tests of the worker under it are skipped"
else
    say "no Python 3.7 or 3.8 found: tests of the worker under it are skipped (install one, or name it: HOLDFAST_OLD_PYTHON=/path/to/python3.7)"
fi
# without it a device and all tests of it are whole; whatever needs a broker fails with the same words
packaging/broker/bring.sh || say "going on without an MQTT broker: what needs one will fail, and say so"
packaging/strace/bring.sh || say "going on without strace: tests of the disk after a power cut are skipped"
