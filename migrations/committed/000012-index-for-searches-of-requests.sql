--! Previous: sha1:a18d9f7bb1976f4076ca77093698f2d3eab46b48
--! Hash: sha1:0927bd30b7b56ec630b8f005bdb5b3eeb8425582
--! Message: index for searches of requests

--! no-transaction
create index concurrently if not exists requests_grams_idx on app_public.requests using gin (app_private.grams(title || ' ' || coalesce(description, '')));
