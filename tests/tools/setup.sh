#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Install what building updates, the guest and the tests need: Debian packages (as root or through
# sudo) and a virtual environment in the cache.  Does nothing, quickly, when all is there.
set -eu

here=$(dirname "$0")
venv=${XDG_CACHE_HOME:-$HOME/.cache}/ksplice/venv
log=$(mktemp)
trap 'rm -f "$log"' EXIT

packages=(
    # the archive
    apt gpgv gnupg debian-archive-keyring
    # compilers of other suites
    bubblewrap
    # kernel modules, and units of the kernel's source
    gcc-12 make flex bison bc libelf-dev libssl-dev dwarves dpkg-dev patch perl rsync
    lz4 xz-utils zstd kmod cpio
    # the guest
    qemu-system-x86 qemu-utils ovmf mmdebstrap busybox-static e2fsprogs util-linux fakeroot
    # the daemon
    dbus polkitd minisign
    python3-venv python3-gi python3-pydbus python3-systemd python3-pyudev python3-pyroute2
    python3-pyelftools gir1.2-glib-2.0
    # the checks
    git shellcheck sparse strace gcc libc6-dev
)

fail() {
    printf 'setup: %s\n' "$1" >&2
    if [ -s "$log" ]; then tail -n 15 "$log" >&2; fi
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" \
        < /dev/null > "$log" 2>&1
}

[ "$(uname -m)" = x86_64 ] || fail "this machine is $(uname -m); ksplicd patches x86_64 kernels only"
command -v apt-get > /dev/null || fail 'apt-get: not found; the lab needs Debian 12 or 13'

installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2> /dev/null || :)
missing=()
for package in "${packages[@]}"; do
    [[ $'\n'$installed$'\n' == *$'\n'"installed $package"$'\n'* ]] || missing+=("$package")
done

if ((${#missing[@]})) || ! compgen -G '/var/lib/apt/lists/*Packages*' > /dev/null; then
    echo "setup: updating apt's lists" >&2
    apt update || fail "apt-get update failed; are the machine's apt sources right?"
fi
if ((${#missing[@]})); then
    echo "setup: installing ${missing[*]}" >&2
    apt install --no-install-recommends "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}"
fi

# the venv sees Debian's Python packages, so it must be made by Debian's Python
stamp=$(/usr/bin/python3 -V; cat "$here/requirements.txt")
if [ "$(cat "$venv/stamp" 2> /dev/null)" != "$stamp" ]; then
    echo "setup: making the virtual environment $venv" >&2
    mkdir -p "$(dirname "$venv")"
    /usr/bin/python3 -m venv --system-site-packages "$venv" > "$log" 2>&1 ||
        fail "no virtual environment could be made in $venv"
    "$venv/bin/pip" install -q -r "$here/requirements.txt" < /dev/null > "$log" 2>&1 ||
        fail "pip could not install $(tr '\n' ' ' < "$here/requirements.txt")"
    printf '%s\n' "$stamp" > "$venv/stamp"
fi
