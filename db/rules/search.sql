-- Searching requests by parts of words. The operator for it is not leakproof, so that under row-level security it would read
-- every row. Therefore this function uses the index, as the owner, and returns only ids; row-level security then filters the
-- requests as in any other query.

create or replace function app_hidden.matching_requests(search text, status text, creator_id uuid, assigned_to_id uuid)
  returns uuid[]
  language plpgsql
  stable
  security definer
  set search_path to pg_catalog, pg_temp
  -- How common the words are decides whether the order of time or the index is faster, which a generic plan cannot know.
  set plan_cache_mode to force_custom_plan
as $$
declare
  v_me uuid := app_hidden.current_user_id();
  v_reads_others boolean := app_hidden.has_permission('request.read');
  v_reads_all boolean := app_hidden.has_permission('request.read_all');
  v_patterns text[];
begin
  -- The word with the most letters or digits in a row comes first. Fewer than three in a row have no trigram to look up.
  select array_agg('%' || regexp_replace(term, '([\\%_])', '\\\1', 'g') || '%' order by char_length(longest[1]) desc nulls last)
  into v_patterns
  from regexp_split_to_table(search, '\s+') term
  left join lateral regexp_matches(term, '[[:alnum:]]{3,}', 'g') longest on true
  where term <> '';
  if char_length(search) > 200 or search !~ '[[:alnum:]]{3}' then
    raise exception using errcode = 'RQ422', column = 'search',
      message = 'A search must have at most 200 characters, and contain three letters or digits in a row.';
  end if;

  return array(
    select r.id
    from app_public.requests r
    -- The patterns are separate conditions, so that the planner can look up the rarest word, not the longest.
    where r.title || ' ' || coalesce(r.description, '') ilike v_patterns[1]
      and (v_patterns[2] is null or r.title || ' ' || coalesce(r.description, '') ilike v_patterns[2])
      and (v_patterns[3] is null or r.title || ' ' || coalesce(r.description, '') ilike v_patterns[3])
      and r.title || ' ' || coalesce(r.description, '') ilike all (v_patterns[4:])
      and app_hidden.can_see(r.creator_id, r.status, r.is_deleted, v_me, v_reads_others, v_reads_all)
      and (matching_requests.status is null or r.status = matching_requests.status)
      and (matching_requests.creator_id is null or r.creator_id = matching_requests.creator_id)
      and (matching_requests.assigned_to_id is null or r.assigned_to_id = matching_requests.assigned_to_id)
      and app_hidden.is_listed(r, false)
    order by r.created_at desc, r.id desc
    limit 500
  );
end
$$;
comment on function app_hidden.matching_requests(text, text, uuid, uuid) is
  'The newest 500 requests that contain every word of the search in their title or description, in any letter case. Status, '
  'creator and assignee are filters; null matches any. It skips what the caller cannot see, so that this does not fill the '
  '500; row-level security still decides what the caller sees. Raises RQ422.';
grant execute on function app_hidden.matching_requests(text, text, uuid, uuid) to assent_user, assent_manager, assent_admin;
