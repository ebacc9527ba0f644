#!/bin/sh
# Makes the secrets that docker-compose.yml hands to the containers, in secrets/ beside it. It keeps what is there, so it may be
# run again; to replace one, see docs/operations.md. Passwords in an .env of version 0.1 are taken over.
set -eu
cd "$(dirname "$0")/.."
[ ! -f .env ] || . ./.env

# Only you get into the folder. The files in it are readable to all, because each container reads them as a user of its own.
mkdir -p secrets
chmod 700 secrets
umask 022

keep() {
  [ -s "secrets/$1" ] && return
  printf '%s\n' "$2" >"secrets/$1.new"
  mv "secrets/$1.new" "secrets/$1"
}
random() { openssl rand -hex 32; }

keep postgres_password "${POSTGRES_PASSWORD:-$(random)}"
keep replication_password "$(random)"
keep root_database_url "postgres://postgres:$(cat secrets/postgres_password)@postgres/postgres"
keep owner_database_url "postgres://assent_owner:${OWNER_PASSWORD:-$(random)}@postgres/assent"
keep api_database_url "postgres://assent_authenticator:${API_PASSWORD:-$(random)}@postgres/assent"
keep replica_database_url "$(sed 's/@postgres\//@standby\//' secrets/api_database_url)"
keep worker_database_url "postgres://assent_worker:${WORKER_PASSWORD:-$(random)}@postgres/assent"
keep jwt_secret "${JWT_SECRET:-$(random)}"
keep smtp_url "${SMTP_URL:-smtp://mail:1025?requireTLS=false}"

if [ ! -s secrets/tls_certificate ]; then
  # Signed by nobody, for a trial: replace both files by those of your authority.
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -keyout secrets/tls_key.new \
    -out secrets/tls_certificate.new -subj "/CN=${SERVER_NAME:-localhost}" -addext "subjectAltName=DNS:${SERVER_NAME:-localhost}" 2>/dev/null
  chmod 644 secrets/tls_key.new
  mv secrets/tls_key.new secrets/tls_key
  mv secrets/tls_certificate.new secrets/tls_certificate
fi
