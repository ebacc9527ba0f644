--! Previous: sha1:bad3c128e8cb7b025f9c1a8aba65bc5293e422fd
--! Hash: sha1:b0f7230bbbaeff7266c2f47bcb398cb896eea60f
--! Message: index for requests of an assignee by status

--! no-transaction
create index concurrently if not exists requests_assigned_to_id_status_idx on app_public.requests (assigned_to_id, status, created_at, id);
