#!/bin/sh
# Brings the database back to a moment, from the last copy before it and the log since then; without a moment, as far as the archive
# goes. While the database does not run:
#   docker compose run --rm --no-deps postgres /etc/assent/recover.sh '2026-03-01 14:05:00 UTC'
# It works aside and moves the result into place last, so it may be run again. What was there before is kept.
set -eu
archive=${ARCHIVE:-/var/lib/archive}
scripts=$(cd "$(dirname "$0")" && pwd)
new=$PGDATA.recovered
stop() { echo "$1" >&2; exit 1; }

[ ! -f "$PGDATA/postmaster.pid" ] || stop "The database runs: stop it first. If it was killed, remove $PGDATA/postmaster.pid."
if [ $# -gt 0 ]; then
  moment=$(date -u -d "$1" '+%Y-%m-%d %H:%M:%S.%6N+00')
  target="-c recovery_target_time='$moment' -c recovery_target_action=promote"
else
  moment='the end of the archive'
  target=
fi
base=$(ls "$archive/base" | grep -v unfinished | awk -v last="$(date -u -d "${1:-now}" +%Y%m%dT%H%M%SZ)" '$0 <= last' | sort | tail -n 1)
[ "$base" ] || stop "There is no copy from before $moment. The first one is $(ls "$archive/base" | sort | head -n 1)."

rm -rf "$new"
mkdir -p -m 700 "$new"
echo "Unpacking the copy $base ..."
tar -xzf "$archive/base/$base/base.tar.gz" -C "$new"
touch "$new/recovery.signal"
echo "Replaying the log up to $moment ..."
# It takes no connection before it is there, and fails if the archive does not reach that far.
pg_ctl start --silent --wait --timeout=86400 --pgdata="$new" --options="-c listen_addresses='' -c unix_socket_directories='$new' \
  -c hot_standby=off $target -c restore_command='test -f $archive/wal/%f.gz && gunzip --stdout $archive/wal/%f.gz >%p' \
  -c archive_mode=on -c archive_command='$scripts/archive.sh $archive/wal %p %f'"
# pg_ctl waits only until the log is being replayed.
until grep --quiet --no-messages '^ready' "$new/postmaster.pid"; do
  [ -f "$new/postmaster.pid" ] || stop 'The database has not come back: see above why. Nothing is changed.'
  sleep 0.2
done
pg_ctl stop --silent --wait --timeout=3600 --pgdata="$new"
if [ -e "$PGDATA" ]; then
  before=$PGDATA.$(date -u +%Y%m%dT%H%M%SZ)
  mv "$PGDATA" "$before"
  echo "What was there is in $before now: remove it when you no longer need it."
fi
mv "$new" "$PGDATA"
echo "The database is as it was at $moment."
