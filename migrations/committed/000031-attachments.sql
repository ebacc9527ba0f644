--! Previous: sha1:c4ebff174a1be8924f634e012f6a197c89032819
--! Hash: sha1:6c661905aff9db3857b60eb5224a6b1c6d554d50
--! Message: attachments

insert into app_public.audit_actions (action, is_told, description) values
  ('ATTACH',          false, 'A file was attached to a draft.'),
  ('DETACH',          false, 'An attachment of a draft was removed.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);

-- What is attached to requests. The bytes are content-addressed: however many attachments have the same, they are kept once. They
-- are in the database, so that they share transaction, backup and replica with the request that they are evidence for; and in
-- chunks, so that neither a statement nor a server ever has the whole of a file in its memory.

create table if not exists app_private.files (
  id uuid primary key default app_private.uuid_v7(),
  sha256 text,
  size integer not null default 0,
  chunks integer not null default 0,
  uploader_id uuid not null references app_public.users on delete restrict,
  request_id uuid not null references app_public.requests on delete restrict,
  swept_after timestamptz,
  constraint files_sha256_key unique (sha256),
  constraint files_sha256_form check (sha256 ~ '^[0-9a-f]{64}$'),
  constraint files_size_limit check (size between 0 and 10485760)
);
comment on table app_private.files is
  'The files that attachments name, and those that are still being uploaded: see db/rules/attachments.sql.';
comment on column app_private.files.id is 'Time-ordered UUID (version 7).';
comment on column app_private.files.sha256 is
  'The SHA-256 of its bytes, in hexadecimal digits; null while it is being uploaded.';
comment on column app_private.files.size is 'How many bytes have arrived.';
comment on column app_private.files.chunks is 'In how many chunks.';
comment on column app_private.files.uploader_id is 'Who uploads it, or was the first to upload these bytes.';
comment on column app_private.files.request_id is 'The request that it was uploaded for.';
comment on column app_private.files.swept_after is
  'When it may be deleted, unless an attachment names it. It is set while the file is being uploaded, and when an attachment of '
  'it is removed.';
comment on constraint files_sha256_form on app_private.files is 'A SHA-256 must have 64 hexadecimal digits in lower case.';
comment on constraint files_size_limit on app_private.files is 'A file must have at most 10 MB.';
create index if not exists files_uploader_id_idx on app_private.files (uploader_id, swept_after);
create index if not exists files_request_id_idx on app_private.files (request_id);
create index if not exists files_swept_after_idx on app_private.files (swept_after) where swept_after is not null;

create table if not exists app_private.file_chunks (
  file_id uuid not null references app_private.files on delete cascade,
  place integer not null,
  bytes bytea not null,
  primary key (file_id, place)
);
-- Most files are compressed already: to try again costs more than the transfer.
alter table app_private.file_chunks alter column bytes set storage external;
comment on table app_private.file_chunks is 'The bytes of files, in chunks of 64 KiB, of which only the last may be shorter.';
comment on column app_private.file_chunks.file_id is 'The file.';
comment on column app_private.file_chunks.place is 'The place of the chunk in the file, from 0.';
comment on column app_private.file_chunks.bytes is 'The bytes.';

create table if not exists app_public.attachments (
  id uuid primary key default app_private.uuid_v7(),
  request_id uuid not null references app_public.requests on delete restrict,
  name text not null,
  media_type text not null,
  size integer not null,
  sha256 text not null references app_private.files (sha256) on delete restrict,
  created_at timestamptz not null default clock_timestamp(),
  constraint attachments_name_blank check (not app_private.is_blank(name)),
  constraint attachments_name_length check (char_length(name) <= 200),
  -- Dots alone name a folder. What turns the direction of writing makes "fdp.exe" look like "exe.pdf".
  constraint attachments_name_form check (
    name !~ '[\u0001-\u001F\u007F-\u009F/\\\u2028\u2029\u202A-\u202E\u2066-\u2069]' and name !~ '^[.]+$'
  )
);
comment on table app_public.attachments is
  E'@defaultOrderBy CREATED_AT_DESC\n'
  '@behavior -query:resource:list -query:resource:connection -query:resource:single -resource:aggregates '
  '-resource:groupedAggregates -filter -resource:connection:condition -manyRelation:resource:connection:condition\n'
  'A file that its creator has attached to a request. GET /api/v1/attachments/{id}/ downloads it.';
comment on column app_public.attachments.id is 'Time-ordered UUID (version 7).';
comment on column app_public.attachments.request_id is E'@behavior -*\nThe request that it is attached to.';
comment on column app_public.attachments.name is E'@behavior -orderBy\nThe name of the file, in 1 to 200 characters.';
comment on column app_public.attachments.media_type is
  E'@behavior -orderBy\n'
  'What the first bytes of the file say that it is, whatever its name says; application/octet-stream if they say nothing.';
comment on column app_public.attachments.size is E'@behavior -orderBy -attribute:aggregate\nHow many bytes it has.';
comment on column app_public.attachments.sha256 is
  E'@behavior -orderBy\nThe SHA-256 of its bytes, in hexadecimal digits: the same bytes have the same.';
comment on column app_public.attachments.created_at is 'When it was attached.';
comment on constraint attachments_request_id_fkey on app_public.attachments is
  E'@behavior +manyRelation:resource:connection -singularRelation:resource:single\n@foreignFieldName attachments';
comment on constraint attachments_sha256_fkey on app_public.attachments is E'@behavior -*';
comment on constraint attachments_name_blank on app_public.attachments is 'The name of the file must not be blank.';
comment on constraint attachments_name_length on app_public.attachments is
  'The name of the file must have at most 200 characters.';
comment on constraint attachments_name_form on app_public.attachments is
  'The name of the file must not contain slashes, backslashes or control characters.';
create index if not exists attachments_request_id_idx on app_public.attachments (request_id, created_at, id);
create index if not exists attachments_sha256_idx on app_public.attachments (sha256);
