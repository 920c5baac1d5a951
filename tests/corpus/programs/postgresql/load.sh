#!/bin/sh
# Fills pgbench's tables once, then runs its transactions at a steady rate until it is stopped. Argument: the port.
export PGHOST=127.0.0.1 PGPORT="$1" PGUSER=bench PGDATABASE=postgres
until pgbench -i -s 6 -q >/dev/null 2>&1; do sleep 1; done
while :; do pgbench -n -c 4 -R 60 -T 600 >/dev/null 2>&1 || sleep 1; done
