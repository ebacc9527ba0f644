-- Searching by words, or by parts of them. No operator for it is leakproof, so that under row-level security a search would read
-- every row. Therefore these functions search as the owner, among what the caller sees, and return only ids; row-level security
-- then filters those rows as in any other query. The server runs them on connections of their own, and not for long.

create or replace function app_private.search_terms(search text)
  returns text[]
  language plpgsql
  stable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_terms text[] := array(
    select distinct term from regexp_split_to_table(app_private.folded(search), '\s+') term where term <> ''
  );
begin
  if char_length(search) > 200 or cardinality(v_terms) not between 1 and 5 then
    raise exception using errcode = 'RQ422', column = 'search',
      message = 'A search must have at most 200 characters, and one to five different words.';
  end if;
  return v_terms;
end
$$;
comment on function app_private.search_terms(text) is
  'The different words of a search, folded. Raises RQ422 if there are none or too many, as each takes time.';

create or replace function app_private.contains_all(value text, terms text[])
  returns boolean
  language plpgsql
  immutable
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_term text;
begin
  foreach v_term in array terms loop
    if strpos(value, v_term) = 0 then
      return false;
    end if;
  end loop;
  return true;
end
$$;
comment on function app_private.contains_all(text, text[]) is 'Does the text contain each of these words? All of it is folded.';

create or replace function app_private.gram_query(terms text[])
  returns tsquery
  language sql
  immutable
as $$
  select string_agg(
    '''' || replace(replace(gram, '\', '\\'), '''', '''''') || '''' || case when char_length(gram) < 6 then ':*' else '' end,
    ' & '
  )::tsquery
  from unnest(terms) term
  cross join lateral (
    select substr(term, n, 6) from generate_series(1, char_length(term) - 5, 6) n
    union
    select right(term, 6)
  ) g(gram)
$$;
comment on function app_private.gram_query(text[]) is
  'What the grams of a text match if it contains these folded words. If none of them has more than six characters, no other text '
  'matches; of a longer word, a text can have the grams in different places.';

create or replace function app_private.take_turn()
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock(hashtextextended('search 1 of ' || app_hidden.current_user_id(), 0))
    and not pg_try_advisory_xact_lock(hashtextextended('search 2 of ' || app_hidden.current_user_id(), 0))
  then
    raise exception using errcode = 'lock_not_available', message = 'Two searches of this person are running.';
  end if;
end
$$;
comment on function app_private.take_turn() is
  'Allows a person two searches at once, so that nobody takes all the connections that there are for searches. Raises '
  'lock_not_available.';

-- Requests ---------------------------------------------------------------------------------------------------------

create or replace function app_private.searched_requests(
  me uuid,
  reads_others boolean,
  reads_all boolean,
  status text,
  creator_id uuid,
  assigned_to_id uuid,
  is_deleted boolean
)
  returns table (id uuid, creator_id uuid, created_at timestamptz, text text)
  language sql
  stable
as $$
  select r.id, r.creator_id, r.created_at, app_private.searched_text(r.title, r.description)
  from app_public.requests r
  where app_hidden.can_see(r.creator_id, r.status, r.is_deleted, me, reads_others, reads_all)
    and r.is_deleted = searched_requests.is_deleted
    and (searched_requests.status is null or r.status = searched_requests.status)
    and (searched_requests.creator_id is null or r.creator_id = searched_requests.creator_id)
    and (searched_requests.assigned_to_id is null or r.assigned_to_id = searched_requests.assigned_to_id)
$$;
comment on function app_private.searched_requests(uuid, boolean, boolean, text, uuid, uuid, boolean) is
  'The requests among which a person searches, with the text that is searched. PostgreSQL inlines it, so that any index on '
  'requests can serve.';

create or replace function app_hidden.matching_requests(
  search text,
  status text,
  creator_id uuid,
  assigned_to_id uuid,
  is_deleted boolean default false
)
  returns uuid[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
  -- Which index is best depends on whoever is searching and for what, which a generic plan cannot know.
  set plan_cache_mode to force_custom_plan
as $$
declare
  v_me uuid := app_hidden.current_user_id();
  v_others boolean := app_hidden.has_permission('request.read');
  v_all boolean := app_hidden.has_permission('request.read_all');
  v_terms text[] := app_private.search_terms(search);
  v_found uuid[] := '{}';
  v_seen integer := 0;
  v_deleted boolean := coalesce(is_deleted, false);
  -- There are few deleted ones: the index, which does not know them, would lead to all others first.
  v_least integer := case when v_deleted then 5000 else 300 end;
  v_hits integer[] := array_fill(0, array[cardinality(v_terms)]);
  v_matches boolean;
  v_is_rare boolean := false;
  v_rare_terms text[];
  v_query tsquery;
  -- Among the requests of one person, whoever that is.
  v_creator uuid := coalesce(creator_id, case when not v_others and not v_all then v_me end);
  v_newest refcursor;
  v_id uuid;
  v_text text;
begin
  perform app_private.take_turn();
  if v_deleted and not v_all then
    return v_found; -- Whoever does not see everything would look at all of them, and see none.
  end if;

  -- What is common is soonest found among the newest, which are looked at for as long as one in fifty has the words. A cursor
  -- is planned for its first rows, where a loop would have all 25,000 sorted before the first.
  if v_creator is null then
    open v_newest for
      select s.id, s.text
      from app_private.searched_requests(v_me, v_others, v_all, status, null, assigned_to_id, v_deleted) s
      order by s.created_at desc, s.id desc
      limit 25000;
  else
    -- Only the index by creator has this order, if the planner does not know that there is but one creator: in the order of time
    -- alone, all requests of others might come first. Therefore it is a range, and one's own are seen by two rules.
    open v_newest for
      select s.id, s.text
      from app_private.searched_requests(v_me, v_others or v_creator = v_me, v_all, status, null, assigned_to_id,
        v_deleted) s
      where s.creator_id between v_creator and v_creator
      order by s.creator_id desc, s.created_at desc, s.id desc
      limit 25000;
  end if;
  loop
    fetch v_newest into v_id, v_text;
    exit when not found;
    v_seen := v_seen + 1;
    v_matches := true;
    for i in 1 .. cardinality(v_terms) loop
      if strpos(v_text, v_terms[i]) > 0 then
        v_hits[i] := v_hits[i] + 1;
      else
        v_matches := false;
      end if;
    end loop;
    if v_matches then
      v_found := v_found || v_id;
    end if;
    v_is_rare := v_seen >= v_least and v_seen > 50 * cardinality(v_found);
    exit when v_is_rare or cardinality(v_found) = 500;
  end loop;
  if not v_is_rare then
    return v_found;
  end if;

  -- What is rare is found by the index. It is not asked for words so common that it takes longer to read where they are than to
  -- look into the texts that have the rarest.
  v_rare_terms := array(
    select term from unnest(v_terms, v_hits) t(term, hits)
    where hits <= 25 * greatest((select min(hits) from unnest(v_hits) h(hits)), 1)
  );
  v_query := app_private.gram_query(v_rare_terms);
  if v_creator is not null then
    v_query := v_query && quote_literal(' ' || v_creator)::tsquery;
  end if;
  return array(
    select rare.request_id
    from (
      select t.request_id, t.created_at
      from app_private.request_texts t
      where app_private.grams_of(t.text) || array_to_tsvector(array[' ' || t.creator_id::text]) @@ v_query
        -- What the index tells for certain need not be looked at.
        and app_private.contains_all(t.text, array(
          select term from unnest(v_terms) term where char_length(term) > 6 or term <> all (v_rare_terms)
        ))
      order by t.created_at desc, t.request_id desc
    ) rare
    -- OFFSET 0 makes it a look-up for each, newest first, until there are enough.
    cross join lateral (
      select from app_private.searched_requests(v_me, v_others, v_all, status, creator_id, assigned_to_id, v_deleted) s
      where s.id = rare.request_id
      offset 0
    ) seen
    order by rare.created_at desc, rare.request_id desc
    limit 500
  );
end
$$;
comment on function app_hidden.matching_requests(text, text, uuid, uuid, boolean) is
  'The newest 500 requests that contain every word of the search in their title or description, in any letter case. Status, '
  'creator and assignee are filters; null matches any. It searches among deleted ones or among the others. It skips what the '
  'caller cannot see, so that this does not fill the 500; row-level security still decides what the caller sees. Raises RQ422, '
  'and lock_not_available (see take_turn).';

-- People -----------------------------------------------------------------------------------------------------------

create or replace function app_hidden.matching_users(search text)
  returns uuid[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
  set plan_cache_mode to force_custom_plan
as $$
declare
  v_me uuid := app_hidden.current_user_id();
  v_reads_email boolean := app_hidden.has_permission('user.read_email');
  v_terms text[] := app_private.search_terms(search);
  v_query tsquery := app_private.gram_query(v_terms);
begin
  perform app_private.take_turn();
  return array(
    select u.id
    from app_public.users u
    where v_me is not null and u.id in (
      select n.id from app_public.users n
      where app_private.grams(n.name) @@ v_query and app_private.contains_all(app_private.folded(n.name), v_terms)
      union all
      select c.user_id from app_private.credentials c
      where (v_reads_email or c.user_id = v_me)
        and app_private.grams(c.email) @@ v_query and app_private.contains_all(app_private.folded(c.email), v_terms)
    )
    order by u.created_at desc, u.id desc
    limit 500
  );
end
$$;
comment on function app_hidden.matching_users(text) is
  'The newest 500 people whose name contains every word of the search, in any letter case, or whose email address does, where '
  'the caller may see it. Raises RQ422, and lock_not_available (see take_turn).';

grant execute on function app_hidden.matching_requests(text, text, uuid, uuid, boolean), app_hidden.matching_users(text)
  to assent_user, assent_manager, assent_admin;
