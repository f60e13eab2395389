# Debian's and Ubuntu's packages into the current folder, without installing them and without root. Sourced by the bring.sh of
# each thing that is brought so; what is unpacked from them is said there.

NETWORK_S=20 # a mirror that does not answer for so long is not there
APT=(apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=$NETWORK_S -o Acquire::https::Timeout=$NETWORK_S
    -o APT::Sandbox::User=root) # root downloads as itself: apt's own user cannot write into this folder

say() { printf 'setup: %s\n' "$*" >&2; }

missing_packages() { # apt's own plan for an installation that is not carried out; it needs no root
    local package=$1
    shift
    "${APT[@]}" "$@" --simulate --no-install-recommends install "$package" | sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}

download() { # package, more options of apt
    local packages
    packages=$(missing_packages "$@") && [ -n "$packages" ] || return 1
    shift
    # shellcheck disable=SC2086 # one word for each package
    "${APT[@]}" "$@" download $packages
}

download_with_own_lists() { # where the machine's package lists are missing or too old: its sources, with lists of our own
    local own=(-o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/cache")
    mkdir -p lists/partial cache/archives/partial
    "${APT[@]}" "${own[@]}" update && download "$1" "${own[@]}"
}

extract_all() { # the packages in this folder into root/; prints where their libraries are, for a wrapper that knows $here
    local package
    for package in *.deb; do
        dpkg-deb --extract "$package" root
    done
    rm -rf ./*.deb lists cache
    find root -name '*.so.*' -printf '$here/%h\n' | sort -u | paste -sd:
}

fetch_into() { # folder, package: download and then `unpack`; the log stays in the folder
    local folder=$1 package=$2
    mkdir "$folder"
    (cd "$folder" && { download "$package" || { rm -f ./*.deb && download_with_own_lists "$package"; }; } && unpack) \
        >setup-packages.log 2>&1 || :
    mv setup-packages.log "$folder/setup.log"
}

show_end_of_log() { # of a folder that could not be made
    [ ! -s "$1/setup.log" ] || { tail -n 5 "$1/setup.log" >&2; say "(above: the end of $1/setup.log)"; }
}
