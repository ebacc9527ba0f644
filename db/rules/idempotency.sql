-- A POST that is repeated with the same Idempotency-Key takes effect once, and gets the first response again (IETF draft "The
-- Idempotency-Key HTTP Header Field"). The key is claimed, the action taken and the response kept in one transaction, so that a
-- server which is killed meanwhile leaves no trace of any of them.

create or replace function app_hidden.claim_idempotency_key(
  key text,
  fingerprints bytea[],
  out state text,
  out answer json
)
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_me uuid := app_private.require_session();
  v_fingerprint bytea;
  v_permissions text[];
begin
  if not pg_try_advisory_xact_lock(hashtextextended('idempotency key ' || claim_idempotency_key.key || ' of ' || v_me, 0)) then
    state := 'RUNNING';
    return;
  end if;
  -- A few expired keys, whoever's they are, are deleted at each call, so that nobody ever waits for the deletion of many.
  delete from app_private.idempotency_keys k where (k.user_id, k.key) in (
    select e.user_id, e.key from app_private.idempotency_keys e
    where e.created_at < now() - app_private.kept_for('idempotency key')
    order by e.created_at
    limit 10
    for update skip locked
  );
  delete from app_private.idempotency_keys k
  where k.user_id = v_me and k.key = claim_idempotency_key.key and k.created_at < now() - app_private.kept_for('idempotency key');
  select k.fingerprint, k.permissions, k.answer into v_fingerprint, v_permissions, answer
  from app_private.idempotency_keys k
  where k.user_id = v_me and k.key = claim_idempotency_key.key;
  if not found then
    state := 'NEW';
  elsif v_fingerprint <> all (fingerprints) then
    state := 'OTHER';
    answer := null;
  elsif not exists (select from app_private.caller_with_permissions() c where c.permissions @> v_permissions) then
    raise exception using errcode = 'RQ403',
      message = 'This request was answered when you had more permissions, and you may no longer see the response.';
  else
    state := 'ANSWERED';
  end if;
end
$$;
comment on function app_hidden.claim_idempotency_key(text, bytea[]) is
  'NEW: go on, and call keep_answer at the end of the same transaction. ANSWERED: answer holds the first response. OTHER: the '
  'key belongs to a request with another fingerprint. RUNNING: another transaction is processing the request. Raises RQ401, '
  'and RQ403 if the caller has lost a permission since the first response, which may show what they can no longer see.';

create or replace function app_hidden.keep_answer(key text, fingerprint bytea, answer json)
  returns void
  language sql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
  insert into app_private.idempotency_keys (user_id, key, fingerprint, answer, permissions)
  values (
    app_private.require_session(), keep_answer.key, keep_answer.fingerprint, keep_answer.answer,
    coalesce((select c.permissions from app_private.caller_with_permissions() c), '{}')
  )
$$;
comment on function app_hidden.keep_answer(text, bytea, json) is
  'Keeps the response under the key that this transaction has claimed. Raises RQ401 without a live session.';

grant execute on function app_hidden.claim_idempotency_key(text, bytea[]), app_hidden.keep_answer(text, bytea, json)
  to assent_user, assent_manager, assent_admin;
