--! Previous: sha1:07f2297ecd6eee4a6a757a5215752c553bc6cde9
--! Hash: sha1:0a6b346dbdf3fe4e267dec0a2982d6517103d9a3
--! Message: index for expired sessions

--! no-transaction
create index concurrently if not exists sessions_expires_at_idx on app_private.sessions (expires_at);
