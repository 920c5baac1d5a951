#!/bin/sh
# Takes nodes whose agent asks for a drain out of an upstream of nginx, and puts them back: asks each
# agent every second, writes the list of servers that nginx.conf includes, and reloads nginx when it
# has changed. Requests in progress are finished by nginx's old workers. Run it as a service beside
# nginx, with these variables:
: "${NODES:=10.0.0.11 10.0.0.12 10.0.0.13}"
: "${PORT:=8080}"
: "${LIST:=/etc/nginx/spillway-nodes.conf}"
: "${RELOAD:=nginx -s reload}"

while :; do
    list=$(
        for node in $NODES; do
            status=$(curl --silent --output /dev/null --max-time 2 --write-out '%{http_code}' \
                "http://$node:9646/ready")
            # Only a drain takes a node out: an agent that is down says nothing about its service.
            if [ "$status" = 503 ]; then down=" down"; else down=""; fi
            echo "server $node:$PORT$down;"
        done
    )
    # nginx keeps the last list rather than have no server at all.
    if echo "$list" | grep -qv ' down;$' && [ "$list" != "$(cat "$LIST" 2>/dev/null)" ]; then
        echo "$list" >"$LIST.new" && mv "$LIST.new" "$LIST" && $RELOAD
    fi
    sleep 1
done
