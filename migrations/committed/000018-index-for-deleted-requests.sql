--! Previous: sha1:58caf01cd6b45aaf8fd5be1b82b95593977ebf07
--! Hash: sha1:5d3fd5d82a2ee80382ea31db8e513a4703160cad
--! Message: index for deleted requests

--! no-transaction
create index concurrently if not exists requests_deleted_idx on app_public.requests (created_at, id) where is_deleted;
