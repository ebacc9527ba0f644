--! Previous: sha1:5a1116b193607105d2443f4008b18ebded42ab93
--! Hash: sha1:e0fe39e18194740264de09ee62f2ca21644e046e
--! Message: texts of requests

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

-- What is searched of a request. It is kept apart, because its index has hundreds of entries for each request, all of which a
-- change of status would write again if they were an index of requests.
create table if not exists app_private.request_texts (
  request_id uuid primary key,
  creator_id uuid not null,
  created_at timestamptz not null,
  text text not null
);
comment on table app_private.request_texts is
  'What searches look for words in: the text of each request, and what never changes of it. See db/rules/search.sql.';
comment on column app_private.request_texts.request_id is 'Whose text it is.';
comment on column app_private.request_texts.creator_id is 'Who created the request.';
comment on column app_private.request_texts.created_at is 'When it was created.';
comment on column app_private.request_texts.text is 'Title and description, folded.';

-- These are here and not among the rules, because the table is filled from its migration on.
create or replace function app_private.searched_text(title text, description text)
  returns text
  language sql
  immutable
as $$
  select app_private.folded(title || ' ' || coalesce(description, ''))
$$;
comment on function app_private.searched_text(text, text) is 'What a search looks for words in.';

create or replace function app_private.tg_requests__keep_text()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  insert into app_private.request_texts (request_id, creator_id, created_at, text)
  values (new.id, new.creator_id, new.created_at, app_private.searched_text(new.title, new.description))
  on conflict (request_id) do update set text = excluded.text;
  return null;
end
$$;
comment on function app_private.tg_requests__keep_text() is 'Keeps what searches look for words in.';

create or replace trigger _300_keep_text
  after insert on app_public.requests
  for each row execute function app_private.tg_requests__keep_text();
create or replace trigger _310_keep_text
  after update on app_public.requests
  for each row when ((new.title, new.description) is distinct from (old.title, old.description))
  execute function app_private.tg_requests__keep_text();
