#!/usr/bin/env bash
# Makes sure that PostgreSQL's programs are there: tests start a server of their own. Only the programs are needed, no
# running service.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/apt.sh

present() {
    local folder
    if command -v initdb > /dev/null && command -v postgres > /dev/null; then return 0; fi
    for folder in /usr/lib/postgresql/*/bin; do
        if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then return 0; fi
    done
    return 1
}

if present; then exit 0; fi
apt_install postgresql
if ! present; then
    echo "postgres.sh: initdb and postgres are neither in PATH nor in /usr/lib/postgresql/*/bin" >&2
    exit 1
fi
