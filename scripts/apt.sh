# Sourced: `apt_install PACKAGE...` installs packages where there is apt and the right to, else it fails and says so.

apt_install() {
    local sudo=()
    if ! command -v apt-get > /dev/null; then
        echo "$(basename "$0"): there is no apt-get here; please install the equivalent of: $*" >&2
        return 1
    fi
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo > /dev/null; then
            echo "$(basename "$0"): neither root nor sudo; please have these packages installed: $*" >&2
            return 1
        fi
        sudo=(sudo)
    fi
    echo "$(basename "$0"): installing $*"
    "${sudo[@]}" apt-get update -qq || echo "$(basename "$0"): apt-get update failed; trying with the lists there are" >&2
    if ! "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > /dev/null; then
        echo "$(basename "$0"): apt-get could not install: $*" >&2
        return 1
    fi
}
