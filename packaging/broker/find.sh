# Where mosquitto 2 is. Sourced by bring.sh and broker.sh, which say what they do with it.
# HOLDFAST_MOSQUITTO names another one than the one that would be found.

BROKER_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.broker # what bring.sh made, in the project alone

is_mosquitto_2() { # 1.x has another configuration language; its exit code says nothing
    [[ $("$1" -h 2>/dev/null) == *"mosquitto version 2."* ]]
}

find_mosquitto() { # prints its path; false when there is none. The machine's own comes first: the set-up changes nothing then
    local candidate
    for candidate in ${HOLDFAST_MOSQUITTO:-"$(command -v mosquitto)" /usr/sbin/mosquitto /usr/local/sbin/mosquitto \
        "$BROKER_HOME/mosquitto"}; do
        is_mosquitto_2 "$candidate" && printf '%s\n' "$candidate" && return
    done
    return 1
}

find_mosquitto_passwd() { # of the same package
    local candidate
    for candidate in "$(dirname "$1")/mosquitto_passwd" "$(dirname "$1")/../bin/mosquitto_passwd" mosquitto_passwd; do
        command -v "$candidate" && return
    done
    return 1
}

WITHOUT_MOSQUITTO="no mosquitto 2 (an MQTT broker) was found, and it could not be brought from Debian's or Ubuntu's packages"
INSTALL_MOSQUITTO="Install it, for example: apt-get install mosquitto or dnf install mosquitto;"
INSTALL_MOSQUITTO+=" or name one: HOLDFAST_MOSQUITTO=/path/to/mosquitto"
