#!/usr/bin/env bash
# Runs mosquitto with the configuration beside this file, for a fleet or for tests. Who may do what is said in acl.
#   broker.sh start FOLDER HOST:PORT [--certificates]   in the foreground, until it is ended; port 0 takes a free one
#   broker.sh user FOLDER NAME                          a new random password for NAME (a device's id, or coordinator)
# FOLDER has: mosquitto.conf and acl (written at each start), port and pid (of the broker that runs), passwords (hashed) and
# NAME.password (to be taken to the device; mode 0600). With --certificates: put ca.pem, server.pem and server.key there before.
set -euo pipefail
umask 077
HERE=$(cd "$(dirname "$0")" && pwd)
. "$HERE/find.sh"
PORTS_FROM=20000 PORTS=12000 # below what the kernel gives to outgoing connections, so that a restart finds its port free
TRIES_MAX=100

fail() { printf 'broker: %s\n' "$1" "next step: $2" >&2; exit 1; }
usage() { sed -n 's/^#   //p' "$0" >&2; exit 2; }

free_port() { # of this host
    local tries port
    for ((tries = 0; tries < TRIES_MAX; tries++)); do
        port=$((PORTS_FROM + (RANDOM << 15 | RANDOM) % PORTS))
        (: <>"/dev/tcp/$1/$port") 2>/dev/null || { printf '%s\n' "$port"; return; }
    done
    fail "no free port on $1 from $PORTS_FROM" "Name one that is free"
}

write_configuration() { # host, port, kind; the file names in it are relative to this folder
    {
        printf '# Written by broker.sh at each start.\n\nlistener %s %s\n\n' "$2" "$1"
        cat "$HERE/$3.conf" "$HERE/mosquitto.conf"
    } >mosquitto.conf
    cp "$HERE/acl" acl
}

start() {
    local host=${2%:*} port=${2##*:} kind=passwords mosquitto
    [[ $2 == *?:* && $port =~ ^[0-9]{1,5}$ ]] || usage
    case ${3:-} in '') ;; --certificates) kind=certificates ;; *) usage ;; esac
    host=${host#[} host=${host%]}
    mosquitto=$(find_mosquitto) || fail "$WITHOUT_MOSQUITTO" "$INSTALL_MOSQUITTO"
    mkdir -p "$1"
    cd "$1"
    ! runs || fail "a broker runs in $1 already, as process $(cat pid)" "End that one first, or name another folder"
    rm -f port
    trap '' HUP # from `user`, before mosquitto listens to it: it reads the passwords now anyway
    [ "$port" != 0 ] || port=$(free_port "$host")
    touch passwords
    write_configuration "$host" "$port" "$kind"
    printf '%s\n' $$ >pid
    printf '%s\n' "$port" >port # last: whoever reads it finds everything else
    exec "$mosquitto" -c mosquitto.conf
}

user() {
    local mosquitto hasher password
    [[ $2 =~ ^[A-Za-z0-9_.-]{1,64}$ ]] || fail "$2 is no device id" "Use up to 64 of: letters, digits, dot, dash, underscore"
    mosquitto=$(find_mosquitto) || fail "$WITHOUT_MOSQUITTO" "$INSTALL_MOSQUITTO"
    hasher=$(find_mosquitto_passwd "$mosquitto") || fail "there is no mosquitto_passwd beside $mosquitto" "$INSTALL_MOSQUITTO"
    mkdir -p "$1"
    cd "$1"
    exec 8>.lock
    flock 8 # two at once would lose one
    password=$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')
    printf '%s:%s\n' "$2" "$password" >.new
    "$hasher" -U .new # in place: no password on a command line, where everybody could read it
    touch passwords
    awk -F: -v name="$2" '$1 != name' passwords >>.new
    printf '%s\n' "$password" >"$2.password"
    mv .new passwords
    ! runs || kill -HUP "$(cat pid)" # it reads the file again and drops nobody
}

runs() { # whether the process in `pid` is the broker of this folder
    [ "$(readlink "/proc/$(cat pid 2>/dev/null)/cwd")" = "$(pwd -P)" ]
}

case ${1:-},$# in
    start,3 | start,4) start "${@:2}" ;;
    user,3) user "${@:2}" ;;
    *) usage ;;
esac
