#!/bin/sh
# Makes a fresh cluster and runs PostgreSQL on it, as another user where this is root. Arguments: the port, a directory.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
as=
if [ "$(id -u)" = 0 ]; then
  chown nobody "$2"
  as="setpriv --reuid nobody --regid nogroup --clear-groups"
fi
cd "$2"
$as "$bin/initdb" -D "$2/data" -A trust -U bench --no-sync >/dev/null
exec $as "$bin/postgres" -D "$2/data" -p "$1" -k "$2" -c listen_addresses=127.0.0.1 -c shared_buffers=96MB 2>"$2/log"
