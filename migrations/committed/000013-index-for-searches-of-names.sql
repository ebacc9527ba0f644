--! Previous: sha1:0927bd30b7b56ec630b8f005bdb5b3eeb8425582
--! Hash: sha1:d012016743c62a70211c2426f61413398091b8ed
--! Message: index for searches of names

--! no-transaction
create index concurrently if not exists users_grams_idx on app_public.users using gin (app_private.grams(name));
