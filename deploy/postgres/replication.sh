#!/bin/sh
# Gives the standby its login, with the password of the secret. PostgreSQL's image runs it when it makes a new database; to
# change the password, or for a database from before there was a standby:
#   docker compose exec postgres /etc/assent/replication.sh
set -eu
psql --username=postgres --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --set=password="$(cat /run/secrets/replication_password)" <<'SQL'
select 'create role assent_replication' where not exists (select from pg_roles where rolname = 'assent_replication') \gexec
alter role assent_replication login replication password :'password';
SQL
