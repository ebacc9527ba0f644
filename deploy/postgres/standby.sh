#!/bin/sh
# A streaming standby: copies the primary first, unless that is done, and then runs what it is told.
set -eu
PGPASSWORD=$(cat /run/secrets/replication_password)
export PGPASSWORD
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Copied aside and moved into place, so that a copy that was broken off is never taken for a database.
  rm -rf "$PGDATA" "$PGDATA.copy"
  mkdir -p "$(dirname "$PGDATA")"
  pg_basebackup --dbname="$PRIMARY" --pgdata="$PGDATA.copy" --wal-method=stream --checkpoint=fast --write-recovery-conf
  mv "$PGDATA.copy" "$PGDATA"
fi
# The password stays in the environment: what --write-recovery-conf has written of it on disk is overruled.
exec "$@" --primary_conninfo="$PRIMARY"
