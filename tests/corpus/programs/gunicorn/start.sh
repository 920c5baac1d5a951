#!/bin/sh
# Starts a pool of four workers, which are replaced after some 600 requests each (recycles) or never (keeps). Arguments: the
# directory of the application, the port, the version.
recycle=
if [ "$3" = recycles ]; then recycle="--max-requests 600 --max-requests-jitter 200"; fi
exec python3 -m gunicorn --chdir "$1" --workers 4 --bind "127.0.0.1:$2" --log-level error $recycle app:app
