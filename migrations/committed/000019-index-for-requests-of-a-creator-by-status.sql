--! Previous: sha1:5d3fd5d82a2ee80382ea31db8e513a4703160cad
--! Hash: sha1:bad3c128e8cb7b025f9c1a8aba65bc5293e422fd
--! Message: index for requests of a creator by status

--! no-transaction
create index concurrently if not exists requests_creator_id_status_idx on app_public.requests (creator_id, status, created_at, id);
