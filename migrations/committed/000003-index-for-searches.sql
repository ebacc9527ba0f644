--! Previous: sha1:c6a85cdfd3d7caafbcbc205d4d113e2c0bb16567
--! Hash: sha1:89c625c2505ef8c197d810051057e786662fa824
--! Message: index for searches

--! no-transaction
create index concurrently if not exists requests_search_idx on app_public.requests using gin ((title || ' ' || coalesce(description, '')) app_private.gin_trgm_ops);
