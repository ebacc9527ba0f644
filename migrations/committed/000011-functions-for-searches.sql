--! Previous: sha1:ce330249c1c1adf028a88767867ff695acfb8316
--! Hash: sha1:a18d9f7bb1976f4076ca77093698f2d3eab46b48
--! Message: functions for searches

-- The functions that the indexes of the next migrations call.
create or replace function app_private.folded(value text)
  returns text
  language sql
  immutable
  parallel safe
as $$
  -- Most text consists of these characters, which no normalization changes: it would take ten times as long as all the rest.
  select replace(replace(lower(case
    when value ~ U&'[^\0001-\02FF\0388-\0482\048A-\0590\05D0-\05EA\0621-\063A\2010-\205E\20A0-\20BF\2190-\2328'
      '\3000-\3029\3030-\3096\309B-\30FF\4E00-\9FFF\AC00-\D7A3\FF01-\FFEF\+01F300-\+01FAFF]'
    then normalize(value) else value
  end), 'ß', 'ss'), 'ς', 'σ')
$$;
comment on function app_private.folded(text) is
  'Text as searches compare it: canonical equivalents and letter cases are the same. Lower case alone would not do for the two '
  'letters of ours that have another in upper case: ß is SS there, and ς is Σ.';

create or replace function app_private.grams(value text)
  returns tsvector
  language plpgsql
  immutable
  parallel safe
  set search_path to pg_catalog, pg_temp
as $$
begin
  return array_to_tsvector(array(
    select substr(part, generate_series(1, least(char_length(part), 50)), 6)
    from (
      -- Parts of a word, because to find the nth character of a long text takes PostgreSQL n steps.
      select substr(word, generate_series(1, char_length(word), 50), 55)
      from unnest(string_to_array(translate(app_private.folded(value), E'\t\n\v\f\r', '     '), ' ')) word
    ) p(part)
  ));
end
$$;
comment on function app_private.grams(text) is
  'The pieces of a text that an index for searches holds: from each character on, six of its word, or what the word still has. '
  'Whatever a word contains, in any script, is the beginning of such a piece.';
