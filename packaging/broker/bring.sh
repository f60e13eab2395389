#!/usr/bin/env bash
# Brings mosquitto 2, the MQTT broker, where the machine has none: Debian's or Ubuntu's packages of it and of the libraries that
# it lacks, unpacked into .broker/ of the project. How a broker is run is said in broker.sh.
# Nothing is installed, so that no service starts and no root is needed; .broker/ is kept until this file changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/broker/find.sh
NETWORK_S=20 # a mirror that does not answer for so long is not there
APT=(apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=$NETWORK_S -o Acquire::https::Timeout=$NETWORK_S
    -o APT::Sandbox::User=root) # root downloads as itself: apt's own user cannot write into this folder

say() { printf 'setup: %s\n' "$*" >&2; }

missing_packages() { # apt's own plan for an installation that is not carried out; it needs no root
    "${APT[@]}" "$@" --simulate --no-install-recommends install mosquitto | sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}

download() { # into the current folder; the arguments are more options of apt
    local packages
    packages=$(missing_packages "$@") && [ -n "$packages" ] || return 1
    # shellcheck disable=SC2086 # one word for each package
    "${APT[@]}" "$@" download $packages
}

download_with_own_lists() { # where the machine's package lists are missing or too old: its sources, with lists of our own
    local own=(-o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
    mkdir -p lists/partial cache/archives/partial
    "${APT[@]}" "${own[@]}" update && download "${own[@]}"
}

unpack() { # the packages in this folder, and beside them commands that find their libraries
    local package libraries name
    for package in *.deb; do
        dpkg-deb --extract "$package" root
    done
    libraries=$(find root -name '*.so.*' -printf '$here/%h\n' | sort -u | paste -sd:)
    for name in sbin/mosquitto bin/mosquitto_passwd; do
        cat >"${name#*/}" <<-WRAPPER
			#!/bin/sh
			here=\$(dirname "\$(readlink -f "\$0")")
			LD_LIBRARY_PATH="$libraries" exec "\$here/root/usr/$name" "\$@"
		WRAPPER
        chmod 755 "${name#*/}"
    done
    rm -rf ./*.deb lists cache
}

bring() {
    command -v apt-get dpkg-deb >/dev/null || return 1
    say ".broker: mosquitto, the MQTT broker (once; kept until packaging/broker/bring.sh changes)"
    mkdir .broker
    (cd .broker && { download || { rm -f ./*.deb && download_with_own_lists; }; } && unpack) >setup-broker.log 2>&1 || :
    mv setup-broker.log .broker/setup.log
    is_mosquitto_2 .broker/mosquitto
}

stamp=$(sha256sum <packaging/broker/bring.sh | cut -d' ' -f1)
[ "$(cat .broker/.stamp 2>/dev/null)" = "$stamp" ] || rm -rf .broker # made by an older set-up, or not to the end
find_mosquitto >/dev/null && exit
if bring; then
    printf '%s' "$stamp" >.broker/.stamp # last: a set-up that was cut off is done again
    exit
fi
[ ! -s .broker/setup.log ] || { tail -n 5 .broker/setup.log >&2; say "(above: the end of .broker/setup.log)"; }
say "$WITHOUT_MOSQUITTO"
say "$INSTALL_MOSQUITTO"
exit 1
