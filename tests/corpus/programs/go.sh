#!/bin/sh
# Builds a Go program with Debian's compiler, unpacked beside it. Arguments: the directory to build in, the source.
set -e
cd "$1"
apt-get download -qq golang-1.19-go golang-1.19-src 2>/dev/null
for deb in *.deb; do dpkg -x "$deb" root; done
rm ./*.deb
cp -r root/usr/share/go-1.19/. root/usr/lib/go-1.19/ 2>/dev/null || true
GOROOT="$1/root/usr/lib/go-1.19" GOCACHE="$1/cache" GO111MODULE=off CGO_ENABLED=0 \
  root/usr/lib/go-1.19/bin/go build -o server "$2"
rm -rf root cache
