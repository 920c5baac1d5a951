#!/bin/sh
# Writes and reads random keys in bursts until it is stopped; the key space is larger than the limit on memory. Arguments:
# the directory of the unpacked packages, the port.
export LD_LIBRARY_PATH="$1/root/usr/lib/x86_64-linux-gnu"
until "$1/root/usr/bin/redis-cli" -p "$2" ping >/dev/null 2>&1; do sleep 1; done
while :; do
  "$1/root/usr/bin/redis-benchmark" -h 127.0.0.1 -p "$2" -q -t set,get -n 12000 -r 300000 -d 300 -c 8 >/dev/null 2>&1
  sleep 4
done
