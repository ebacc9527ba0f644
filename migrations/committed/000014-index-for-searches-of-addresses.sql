--! Previous: sha1:d012016743c62a70211c2426f61413398091b8ed
--! Hash: sha1:e1dc0110bebfa39ca2cb0ac8b6ebbd9d1f461e5a
--! Message: index for searches of addresses

--! no-transaction
create index concurrently if not exists credentials_grams_idx on app_private.credentials using gin (app_private.grams(email));
