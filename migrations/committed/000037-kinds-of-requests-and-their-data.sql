--! Previous: sha1:a34a0a12951e1b14ca360e4a8227838bd492f6f9
--! Hash: sha1:106c20bb0b47a452c12838046efa5e8d2fedf7c7
--! Message: kinds of requests and their data

-- Requests get a kind, and data. The defaults of both columns do not change, and so no row is written. What there is is checked by
-- the next migration.
do $$
begin
  set local lock_timeout = '500ms';
  for attempt in 1..60 loop
    begin
      -- Every call begins with its session, so that none is between two statements: one that was read before requests had these
      -- columns, and planned after, would fail.
      lock table app_private.sessions, app_public.requests in access exclusive mode;
      return;
    exception
      when lock_not_available or deadlock_detected then
        perform pg_sleep(0.1 + 0.2 * random());
    end;
  end loop;
  raise exception using errcode = 'lock_not_available', message = 'Requests are in use: run this again.';
end
$$;

create table if not exists app_public.request_kinds (
  id text primary key,
  name text not null,
  description text,
  schema jsonb not null default '{"type": "object", "additionalProperties": false}',
  is_active boolean not null default true,
  constraint request_kinds_id_form check (id ~ '^[A-Z][A-Z0-9_]{0,49}$'),
  constraint request_kinds_name_blank check (not app_private.is_blank(name)),
  constraint request_kinds_name_length check (char_length(name) <= 100),
  constraint request_kinds_description_length check (char_length(description) <= 10000),
  constraint request_kinds_schema_size check (octet_length(schema::text) <= 50000),
  constraint request_kinds_general check (
    id <> 'GENERAL' or (is_active and schema = '{"type": "object", "additionalProperties": false}')
  )
);
comment on table app_public.request_kinds is
  E'@defaultOrderBy PRIMARY_KEY_ASC\n@behavior -resource:aggregates -resource:groupedAggregates\n'
  'What a request can be, and what its data holds.';
comment on column app_public.request_kinds.id is 'Its name for programs, such as PURCHASE.';
comment on column app_public.request_kinds.name is 'Its name for people, in 1 to 100 characters.';
comment on column app_public.request_kinds.description is
  E'@behavior -filterBy -orderBy\nWhat it is for, in at most 10,000 characters.';
comment on column app_public.request_kinds.schema is
  E'@behavior -filterBy -orderBy -condition:attribute:filterBy\n'
  'What the data of its requests has to be when they are submitted, in JSON Schema 2020-12. Only these keywords are known: '
  'type, enum, const, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf, minLength, maxLength, pattern, items, '
  'minItems, maxItems, uniqueItems, properties, required and additionalProperties; and title, description, default and examples, which '
  'restrict nothing.';
comment on column app_public.request_kinds.is_active is 'Whether new requests can be of this kind.';
comment on constraint request_kinds_id_form on app_public.request_kinds is
  'The id must have 1 to 50 characters: capital letters, digits and underscores, with a letter first.';
comment on constraint request_kinds_name_blank on app_public.request_kinds is 'The name must not be blank.';
comment on constraint request_kinds_name_length on app_public.request_kinds is 'The name must have at most 100 characters.';
comment on constraint request_kinds_description_length on app_public.request_kinds is
  'The description must have at most 10,000 characters.';
comment on constraint request_kinds_schema_size on app_public.request_kinds is 'The schema must have at most 50,000 bytes.';
comment on constraint request_kinds_general on app_public.request_kinds is
  'The kind GENERAL is always there, and its requests have no data.';

insert into app_public.request_kinds (id, name, description) values
  ('GENERAL', 'General', 'Anything that needs approval: a title and a description say what.')
on conflict (id) do nothing;

alter table app_public.requests
  add column if not exists kind_id text not null default 'GENERAL',
  add column if not exists data jsonb not null default '{}';
do $$
begin
  if not exists (select from pg_constraint where conname = 'requests_kind_id_fkey') then
    alter table app_public.requests
      add constraint requests_kind_id_fkey foreign key (kind_id) references app_public.request_kinds on delete restrict not valid,
      add constraint requests_data_object check (jsonb_typeof(data) = 'object') not valid,
      add constraint requests_data_size check (octet_length(data::text) <= 50000) not valid;
  end if;
end
$$;
comment on column app_public.requests.kind_id is E'@behavior -orderBy\nThe kind of request that it is.';
comment on column app_public.requests.data is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy -attribute:aggregate\n'
  'What it holds beside the text, as the schema of its kind says: a JSON object of at most 50,000 bytes. A draft may hold '
  'anything.';
comment on constraint requests_kind_id_fkey on app_public.requests is E'@forwardDescription The kind of request that it is.';
comment on constraint requests_data_object on app_public.requests is 'The data must be a JSON object.';
comment on constraint requests_data_size on app_public.requests is 'The data must have at most 50,000 bytes.';

insert into app_public.audit_actions (action, is_told, description) values
  ('KIND_CREATE',     false, 'A kind of request was created.'),
  ('KIND_UPDATE',     false, 'A kind of request was changed.')
on conflict (action) do update
  set description = excluded.description, is_told = excluded.is_told
  where (audit_actions.*) is distinct from (excluded.*);
insert into app_public.role_permissions (role, permission, description) values
  ('ADMIN',   'kind.manage',         'Create and change kinds of requests.')
on conflict (permission) do update
  set role = excluded.role, description = excluded.description
  where (role_permissions.*) is distinct from (excluded.*);
update app_public.request_transitions set writes = '{title,description,assigned_to_id,kind_id,data}' where action = 'CREATE';
update app_public.request_transitions set writes = '{title,description,assigned_to_id,data}' where action = 'UPDATE';
