#!/bin/sh
# Upgrades what runs to the version that is checked out, and drops no request. It stops at the first step that fails: what has not
# been replaced by then goes on serving, because servers and workers of the version before work on the new schema.
set -eu
cd "$(dirname "$0")/.."

# A version may need a secret that the one before did not have.
deploy/secrets.sh
docker compose build
docker compose run --rm --no-deps setup
docker compose run --rm --no-deps migrate
docker compose up --detach --no-deps --force-recreate --wait worker
# One server after the other: the others have its requests meanwhile.
for server in $(docker compose ps --quiet server); do
  docker stop -t 30 "$server"
  docker rm "$server"
  docker compose up --detach --no-deps --no-recreate --wait server
done
