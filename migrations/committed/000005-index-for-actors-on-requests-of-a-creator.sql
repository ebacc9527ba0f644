--! Previous: sha1:0af5f1079c4dc5630c67011ef56446961b65cc5b
--! Hash: sha1:fb907cd2ec00809d800bc0253c9c2b574ad81eb3
--! Message: index for actors on requests of a creator

--! no-transaction
create index concurrently if not exists audit_logs_request_creator_id_actor_id_idx on app_public.audit_logs (request_creator_id, actor_id);
