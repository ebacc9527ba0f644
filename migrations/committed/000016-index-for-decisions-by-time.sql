--! Previous: sha1:84ac8f66bf034c7b71059c72c49665452773274f
--! Hash: sha1:efe51054162ff824774fa99d3cb90d867ab64195
--! Message: index for decisions by time

--! no-transaction
create index concurrently if not exists requests_reviewed_at_idx on app_public.requests (reviewed_at) include (status, creator_id, reviewed_by_id, submitted_at, is_deleted) where reviewed_at is not null;
