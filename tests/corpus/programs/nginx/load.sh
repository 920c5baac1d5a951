#!/bin/sh
# A second of wrk at each of four sizes of file, with pauses, until it is stopped. Arguments: the packages' directory, the port.
export LD_LIBRARY_PATH="$1/root/usr/lib/x86_64-linux-gnu"
while :; do
  for size in 1 8 64 512; do
    "$1/root/usr/bin/wrk" -t 1 -c 8 -d 1s -H 'Accept-Encoding: gzip' "http://127.0.0.1:$2/$size" >/dev/null 2>&1
    sleep 7
  done
done
