--! Previous: sha1:a129fa1e701670c457c8324c8c74744893f575de
--! Hash: sha1:b96351dc47b9a423f2b6abf7f616a9072adf1c92
--! Message: texts belong to requests

alter index app_private.request_texts_grams_idx alter column 1 set statistics 0;
alter table app_private.request_texts drop constraint if exists request_texts_request_id_fkey;
alter table app_private.request_texts add constraint request_texts_request_id_fkey
  foreign key (request_id) references app_public.requests on delete cascade not valid;
