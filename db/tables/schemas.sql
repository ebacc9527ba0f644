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

-- These functions are here and not among the rules, because CHECKs, indexes and defaults of tables call them.

create or replace function app_private.blanks()
  returns text
  language sql
  immutable
as $$
  select U&'\0001-\0020\007F-\00A0\00AD\034F\0600-\0605\061C\06DD\070F\0890\0891\08E2\115F\1160\1680\17B4\17B5\180B-\180F'
    '\2000-\200F\2028-\202F\205F-\206F\2800\3000\3164\FE00-\FE0F\FEFF\FFA0\FFF0-\FFFB'
    '\+0110BD\+0110CD\+013430-\+01343F\+013441\+013442\+016FE4\+01BCA0-\+01BCA3\+01D159\+01D173-\+01D17A\+0E0000-\+0E0FFF'
$$;
comment on function app_private.blanks() is
  'The characters that show nothing, for a bracket expression: those which Unicode 17 has as White_Space, '
  'Default_Ignorable_Code_Point, Cc (controls) or Cf (format), and five whose name alone says that they are empty (U+2800, '
  'U+13441, U+13442, U+16FE4, U+1D159). A combining mark shows, even on nothing. They are spelt out, so that neither the '
  'locale nor the version of PostgreSQL matters.';

create or replace function app_private.is_blank(value text)
  returns boolean
  language sql
  immutable
as $$
  select value !~ ('[^' || app_private.blanks() || ']')
$$;
comment on function app_private.is_blank(text) is 'Does it contain no character that shows? See app_private.blanks().';

-- Bringing text into NFC takes the square of its length, and no address has 1,000 characters.
create or replace function app_private.email_key(email text)
  returns text
  language sql
  immutable
as $$
  -- The lower case of a capital sigma depends on its place and on the locale: its two small forms count as one.
  select translate(
    normalize(lower(normalize(regexp_replace(left(email, 1000), '[' || app_private.blanks() || ']+', '', 'g'), NFC)), NFC),
    U&'\03C2', U&'\03C3')
$$;
comment on function app_private.email_key(text) is
  'What an email address is compared by, wherever somebody types it: addresses that differ only in letter case, in canonically '
  'equivalent spellings or in what shows nothing are one.';

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

-- These are here for the same reason: indexes for searches call them (see rules/search.sql).

create or replace function app_private.steady()
  returns text
  language sql
  immutable
  parallel safe
as $$
  select U&'\0001-\02FF\0388-\0482\048A-\0590\05D0-\05EA\0621-\063A\2010-\205E\20A0-\20BF\2190-\2328'
    '\3000-\3029\3030-\3096\309B-\30FF\4E00-\9FFF\AC00-\D7A3\FF01-\FFEF\+01F300-\+01FAFF'
$$;
comment on function app_private.steady() is
  'Characters of which most text consists and which no normalization changes or moves, for a bracket expression.';

create or replace function app_private.normalized(value text)
  returns text
  language sql
  immutable
  parallel safe
as $$
  -- A piece is one steady character and all that follows which is not steady, or else many steady ones.
  select coalesce(string_agg(normalize(substr(piece[1], n, 100)), '' order by place, n), '')
  from regexp_matches(value, format('[%1$s]?[^%1$s]+|[%1$s]+(?![^%1$s])', app_private.steady()), 'g')
    with ordinality p(piece, place)
  cross join lateral generate_series(1, char_length(piece[1]), 100) n
$$;
comment on function app_private.normalized(text) is
  'Text in NFC. PostgreSQL''s own function takes the square of the length of a run of combining marks, seconds for those that '
  'a description can hold, and nothing interrupts it. This one takes pieces, in which no mark is torn from its letter, and cuts '
  'those of more than 100 characters.';

create or replace function app_private.folded(value text)
  returns text
  language sql
  immutable
  parallel safe
as $$
  -- To normalize what does not need it would take ten times as long as all the rest, and to take care as long again.
  select replace(replace(lower(case
    when value !~ ('[^' || app_private.steady() || ']') then value
    when char_length(value) <= 500 then normalize(value)
    else app_private.normalized(value)
  end), 'ß', 'ss'), 'ς', 'σ')
$$;
comment on function app_private.folded(text) is
  'Text as searches compare it: canonical equivalents and letter cases are the same. Lower case alone would not do for the two '
  'letters of ours that have another in upper case: ß is SS there, and ς is Σ.';

create or replace function app_private.grams_of(folded text)
  returns tsvector
  language plpgsql
  immutable
  parallel safe
  -- So much dearer than to read a row that the planner had better ask an index.
  cost 10000
  set search_path to pg_catalog, pg_temp
as $$
begin
  return array_to_tsvector(array(
    select substr(part, generate_series(1, least(char_length(part), 50)), 6)
    from (
      -- Parts of a word, because to find the nth character of a long text takes PostgreSQL n steps.
      select substr(word, generate_series(1, char_length(word), 50), 55)
      from unnest(string_to_array(translate(folded, E'\t\n\v\f\r', '     '), ' ')) word
    ) p(part)
  ));
end
$$;
comment on function app_private.grams_of(text) is
  'The pieces of a folded text that an index for searches holds: from each character on, six of its word, or what the word still '
  'has. Whatever a word contains, in any script, is the beginning of such a piece.';

create or replace function app_private.grams(value text)
  returns tsvector
  language sql
  immutable
  parallel safe
as $$
  select app_private.grams_of(app_private.folded(value))
$$;
comment on function app_private.grams(text) is 'The grams of a text that is not folded yet: see grams_of(text).';

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
