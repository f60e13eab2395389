#!/usr/bin/env bash
# Brings mosquitto 2, the MQTT broker, where the machine has none: Debian's or Ubuntu's packages of it and of the libraries that
# it lacks, unpacked into .broker/ of the project. How a broker is run is said in broker.sh.
# Nothing is installed, so that no service starts and no root is needed; .broker/ is kept until this file changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. packaging/broker/find.sh
. packaging/debian.sh

unpack() { # the packages in this folder, and beside them commands that find their libraries
    local libraries name
    libraries=$(extract_all)
    for name in sbin/mosquitto bin/mosquitto_passwd; do
        cat >"${name#*/}" <<-WRAPPER
			#!/bin/sh
			here=\$(dirname "\$(readlink -f "\$0")")
			LD_LIBRARY_PATH="$libraries" exec "\$here/root/usr/$name" "\$@"
		WRAPPER
        chmod 755 "${name#*/}"
    done
}

bring() {
    command -v apt-get dpkg-deb >/dev/null || return 1
    say ".broker: mosquitto, the MQTT broker (once; kept until packaging/broker/bring.sh changes)"
    fetch_into .broker mosquitto
    is_mosquitto_2 .broker/mosquitto
}

stamp=$(cat packaging/broker/bring.sh packaging/debian.sh | sha256sum | cut -d' ' -f1)
[ "$(cat .broker/.stamp 2>/dev/null)" = "$stamp" ] || rm -rf .broker # made by an older set-up, or not to the end
find_mosquitto >/dev/null && exit
if bring; then
    printf '%s' "$stamp" >.broker/.stamp # last: a set-up that was cut off is done again
    exit
fi
show_end_of_log .broker
say "$WITHOUT_MOSQUITTO"
say "$INSTALL_MOSQUITTO"
exit 1
