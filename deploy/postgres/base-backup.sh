#!/bin/sh
# Copies the whole database into the archive while it runs, and clears away what the last seven copies do not need:
#   docker compose exec postgres /etc/assent/base-backup.sh
set -eu
archive=/var/lib/archive
mkdir -p "$archive/base"
cd "$archive/base"
rm -rf unfinished
pg_basebackup --username=postgres --pgdata=unfinished --format=tar --gzip --wal-method=fetch --checkpoint=fast
# By the time from which on it can be brought to any moment.
mv unfinished "$(date -u +%Y%m%dT%H%M%SZ)"
sync .

ls | sort -r | tail -n +8 | xargs -r rm -r
oldest=$(ls | sort | head -n 1)
needed=$(tar -xzOf "$oldest/base.tar.gz" backup_label | sed -n 's/^START WAL LOCATION.*file \(.*\))$/\1/p')
pg_archivecleanup -x .gz "$archive/wal" "$needed"
du -sh "$archive/base/"* "$archive/wal"
