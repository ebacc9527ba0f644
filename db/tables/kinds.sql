-- Kinds of requests: what a request of a kind holds. A kind is configuration, and so a row. What its schema may say, and how data
-- is held against it: rules/data.sql.

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
  'minItems, maxItems, uniqueItems, properties, required and additionalProperties; and title, description, default and '
  'examples, which restrict nothing.';
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
