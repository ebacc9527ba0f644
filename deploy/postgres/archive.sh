#!/bin/sh
# PostgreSQL runs this for each finished piece of its log (archive_command: FOLDER %p %f), and again until it has succeeded. A piece
# that is there already may only be the same: two databases must not share an archive.
set -eu
kept=$1/$3.gz
if [ -f "$kept" ]; then
  gunzip --stdout "$kept" | cmp - "$2"
  exit
fi
mkdir -p "$1"
gzip --fast --stdout "$2" >"$kept.new"
sync "$kept.new"
mv "$kept.new" "$kept"
