#!/bin/sh
# Starts nginx from unpacked packages on files of its own. Arguments: the packages' directory, the port, a directory for its files.
set -eu
mkdir -p "$3/www"
chmod 755 "$3"
for size in 1 8 64 512; do head -c "${size}000" /dev/zero | tr '\0' x > "$3/www/$size"; done
cat > "$3/nginx.conf" <<CONF
daemon off;
worker_processes 2;
pid $3/nginx.pid;
error_log $3/error.log;
events { worker_connections 256; }
http {
  access_log off;
  gzip on;
  gzip_types *;
  client_body_temp_path $3/body; proxy_temp_path $3/proxy; fastcgi_temp_path $3/fastcgi;
  uwsgi_temp_path $3/uwsgi; scgi_temp_path $3/scgi;
  open_file_cache max=200 inactive=20s;
  server { listen 127.0.0.1:$2; root $3/www; }
}
CONF
exec "$1/root/usr/sbin/nginx" -e "$3/error.log" -c "$3/nginx.conf"
