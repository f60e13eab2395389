#!/usr/bin/env bash
# Brings strace, by which tests/images record what a process writes, where the machine has none: Debian's or Ubuntu's package of
# it and of the libraries that it lacks, unpacked into .strace/ of the project. Nothing is installed, so that no root is needed.
# HOLDFAST_STRACE names another one than the one that would be found.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/debian.sh

is_strace() { "$1" -V >/dev/null 2>&1; }

find_strace() {
    local candidate
    for candidate in ${HOLDFAST_STRACE:-"$(command -v strace)" "$PWD/.strace/strace"}; do
        is_strace "$candidate" && return
    done
    return 1
}

unpack() { # beside the package a command that finds its libraries, and does not hand them on to what it records
    local libraries
    libraries=$(extract_all)
    cat >strace <<-WRAPPER
		#!/bin/sh
		here=\$(dirname "\$(readlink -f "\$0")")
		LD_LIBRARY_PATH="$libraries" exec "\$here/root/usr/bin/strace" -E LD_LIBRARY_PATH "\$@"
	WRAPPER
    chmod 755 strace
}

bring() {
    command -v apt-get dpkg-deb >/dev/null || return 1
    say ".strace: strace, which records what is written (once; kept until packaging/strace/bring.sh changes)"
    fetch_into .strace strace
    is_strace .strace/strace
}

stamp=$(cat packaging/strace/bring.sh packaging/debian.sh | sha256sum | cut -d' ' -f1)
[ "$(cat .strace/.stamp 2>/dev/null)" = "$stamp" ] || rm -rf .strace # made by an older set-up, or not to the end
find_strace && exit
if bring; then
    printf '%s' "$stamp" >.strace/.stamp # last: a set-up that was cut off is done again
    exit
fi
show_end_of_log .strace
say "no strace was found, and it could not be brought from Debian's or Ubuntu's packages"
say "Install it, for example: apt-get install strace or dnf install strace"
exit 1
