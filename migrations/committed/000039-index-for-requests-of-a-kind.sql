--! Previous: sha1:2e3f8218eaff47c40d5dbd84d0f57a5524326d86
--! Hash: sha1:fa5d829328ed37b700daeb5c3ec83eef4adbb2c4
--! Message: index for requests of a kind

--! no-transaction
create index concurrently if not exists requests_kind_id_idx on app_public.requests (kind_id, created_at, id);
