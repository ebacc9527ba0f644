-- The schemas, and the default that nobody may execute a function.

create schema if not exists app_public;
comment on schema app_public is
  'The API: every table, column and function in it that is granted to a role is in the GraphQL schema.';
create schema if not exists app_hidden;
comment on schema app_hidden is
  'What policies and API functions call as the caller. It is granted to roles, but it is not part of the API.';
create schema if not exists app_private;
comment on schema app_private is 'Secrets and the owner''s own functions. No caller has access to it.';
create schema if not exists audit;
comment on schema audit is 'Views for DBAs and auditors: who did what, and whether requests agree with their trail.';

-- By default PostgreSQL lets everybody execute a new function. Here each grant is spelt out beside its function.
alter default privileges revoke execute on functions from public;

-- This has crypt() and gen_random_bytes(). It is a trusted extension, which the owner of the database may install.
create extension if not exists pgcrypto with schema app_private;
-- This has trigrams, so that a search for a part of a word can use an index. It is trusted too.
create extension if not exists pg_trgm with schema app_private;

-- These two functions are here and not among the rules, because CHECKs and defaults of tables call them.

create or replace function app_private.is_blank(value text)
  returns boolean
  language sql
  immutable
as $$
  select value !~ U&'[^\0009-\000D\0020\0085\00A0\1680\2000-\200B\2028\2029\202F\205F\2060\3000\FEFF]'
$$;
comment on function app_private.is_blank(text) is
  'Does it contain no visible character? Unicode''s white space and zero-width characters are spelt out, so that it does not '
  'depend on a locale.';

-- All keys use this wrapper, so that column defaults read the same on every version of PostgreSQL.
create or replace function app_private.uuid_v7()
  returns uuid
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  -- PL/pgSQL parses an expression when it is first reached, so that 15 to 17 never look for uuidv7().
  if current_setting('server_version_num')::integer >= 180000 then
    return pg_catalog.uuidv7();
  end if;
  -- 48 bits of Unix milliseconds over a random UUID, then version 7 in bits 48 to 51; version 4 left 0100 there.
  return encode(
    set_bit(set_bit(
      overlay(
        uuid_send(gen_random_uuid())
        placing substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
        from 1 for 6),
      52, 1), 53, 1),
    'hex')::uuid;
end
$$;
comment on function app_private.uuid_v7() is
  'A time-ordered UUID, version 7 (RFC 9562, 5.7), so that inserts into a big table touch only its newest index pages.';

-- The rules that have been applied. server/setup/migrate.ts applies them.
create table if not exists app_private.applied_rules (
  file text primary key,
  hash text not null,
  applied_at timestamptz not null default clock_timestamp()
);
comment on table app_private.applied_rules is
  'The files of db/rules and db/doors as they were last applied. A file whose hash differs is applied again.';
comment on column app_private.applied_rules.file is 'The path of the file below db/.';
comment on column app_private.applied_rules.hash is 'SHA-256 of its text and of the migrations before it.';
comment on column app_private.applied_rules.applied_at is 'When it was last applied.';
