--! Previous: sha1:e1dc0110bebfa39ca2cb0ac8b6ebbd9d1f461e5a
--! Hash: sha1:84ac8f66bf034c7b71059c72c49665452773274f
--! Message: index for people in the order of names

--! no-transaction
create index concurrently if not exists users_name_idx on app_public.users (name, id);
