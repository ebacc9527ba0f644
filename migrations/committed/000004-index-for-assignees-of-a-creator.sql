--! Previous: sha1:89c625c2505ef8c197d810051057e786662fa824
--! Hash: sha1:0af5f1079c4dc5630c67011ef56446961b65cc5b
--! Message: index for assignees of a creator

--! no-transaction
create index concurrently if not exists requests_creator_id_assigned_to_id_idx on app_public.requests (creator_id, assigned_to_id) where not is_deleted;
