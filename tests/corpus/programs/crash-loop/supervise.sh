#!/bin/sh
# Starts the service again two seconds after its end, whatever ended it. Arguments: the script, the version.
while :; do
  python3 "$1" "$2"
  sleep 2
done
