-- A forgotten password. Asking is a job and nothing else, whether or not there is such an account: the answer and its time are
-- the same. The link's secret is made when the mail is (mail_document in mails.sql), and kept as a hash alone.

create table if not exists app_private.password_resets (
  secret_hash bytea primary key,
  user_id uuid not null references app_public.users on delete cascade,
  expires_at timestamptz not null
);
create index if not exists password_resets_user_id_idx on app_private.password_resets (user_id);
create index if not exists password_resets_expires_at_idx on app_private.password_resets (expires_at);
comment on table app_private.password_resets is 'Links by which a new password can be chosen, once.';
comment on column app_private.password_resets.secret_hash is 'SHA-256 of the secret that the link carries.';
comment on column app_private.password_resets.user_id is 'Whose password.';
comment on column app_private.password_resets.expires_at is '30 minutes after the mail was made.';

create table if not exists app_private.password_reset_requests (
  id uuid primary key default app_private.uuid_v7(),
  account_key bytea not null,
  network cidr,
  requested_at timestamptz not null default now()
);
create index if not exists password_reset_requests_account_key_idx on app_private.password_reset_requests (account_key, requested_at);
create index if not exists password_reset_requests_network_idx on app_private.password_reset_requests (network, requested_at);
create index if not exists password_reset_requests_requested_at_idx on app_private.password_reset_requests (requested_at);
comment on table app_private.password_reset_requests is
  'Requests of the last 15 minutes, also for addresses without an account: were those not counted, the allowance of a network would tell which have one.';
comment on column app_private.password_reset_requests.id is 'Time-ordered UUID (version 7).';
comment on column app_private.password_reset_requests.account_key is 'SHA-256 of the address in lower case, whether or not there is such an account.';
comment on column app_private.password_reset_requests.network is 'The caller''s IPv4 address, or the /64 of its IPv6 address.';
comment on column app_private.password_reset_requests.requested_at is 'When its job was run.';

create or replace function app_public.request_password_reset(email text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
begin
  perform graphile_worker.add_job('begin_password_reset',
    json_build_object('email', left(request_password_reset.email, 255), 'ip', host(app_private.current_ip())),
    -- After all that is told: anybody can ask.
    job_key => 'reset ' || app_private.uuid_v7(), job_key_mode => 'unsafe_dedupe', priority => 1);
end
$$;
comment on function app_public.request_password_reset(text) is
  'Has a link mailed, good once and for 30 minutes, by which a new password can be chosen. The answer is the same whether or not there is such an account, and when nothing is mailed since within 15 minutes there were 3 requests for the address, or 20 from the network.';
grant execute on function app_public.request_password_reset(text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.begin_password_reset(email text, ip text)
  returns void
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_since timestamptz := now() - interval '15 minutes';
  v_account_key bytea := app_private.account_key(coalesce(email, ''));
  v_network cidr;
begin
  perform set_config('assent.ip', coalesce(ip, ''), true);
  v_network := app_private.caller_network();
  -- One at a time, for the moment of counting.
  perform pg_advisory_xact_lock(hashtextextended('password resets', 0));
  delete from app_private.password_reset_requests r where r.requested_at < v_since;
  if (select count(*) from app_private.password_reset_requests r where r.account_key = v_account_key and r.requested_at >= v_since) >= 3
    or (select count(*) from app_private.password_reset_requests r where r.network = v_network and r.requested_at >= v_since) >= 20
  then
    return;
  end if;
  insert into app_private.password_reset_requests (account_key, network) values (v_account_key, v_network);
  insert into app_public.audit_logs (action, user_id, ip_address)
  select 'PASSWORD_RESET_REQUEST', u.id, app_private.current_ip()
  from app_private.credentials c
  join app_public.users u on u.id = c.user_id and not u.is_deleted
  where lower(c.email) = lower(begin_password_reset.email);
end
$$;
comment on function app_private.begin_password_reset(text, text) is
  'The job of a request for a reset: counts it, and leaves its audit entry, which has the mail sent. None for an unknown or deactivated account, nor after 3 for the address or 20 from the network within 15 minutes.';

create or replace function app_private.issue_reset_token(of_user_id uuid)
  returns text
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_secret text := app_private.random_secret();
begin
  insert into app_private.password_resets (secret_hash, user_id, expires_at)
  values (app_private.hash_secret(v_secret), of_user_id, now() + interval '30 minutes');
  return v_secret;
end
$$;
comment on function app_private.issue_reset_token(uuid) is
  'The secret of a new link. One for each attempt to mail it: which of them arrives nobody knows before.';

create or replace function app_hidden.reset_password(token text, new_digest text, weakness text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path to pg_catalog, pg_temp
as $$
declare
  v_user_id uuid;
begin
  -- One at a time for each account: of two at once, by one link or by two, the second finds its own used.
  perform from app_private.credentials c
  where c.user_id = (select r.user_id from app_private.password_resets r where r.secret_hash = app_private.hash_secret(token))
  for update;
  select r.user_id into v_user_id
  from app_private.password_resets r
  join app_public.users u on u.id = r.user_id and not u.is_deleted
  where r.secret_hash = app_private.hash_secret(token) and r.expires_at > now();
  if not found then
    raise exception using errcode = 'RQ422', column = 'token', message = 'This link is used, expired or unknown.';
  end if;
  perform app_private.refuse_weakness(weakness, 'new_password');

  update app_private.credentials c set password_hash = app_private.hash_password(new_digest)
  where c.user_id = v_user_id;
  delete from app_private.login_attempts a
  using app_private.credentials c
  where c.user_id = v_user_id and a.account_key = app_private.account_key(c.email) and a.failed;
  update app_private.sessions s set revoked_at = now() where s.user_id = v_user_id and s.revoked_at is null;
  insert into app_public.audit_logs (actor_id, action, user_id, metadata, ip_address)
  values (v_user_id, 'PASSWORD_CHANGE', v_user_id, '{"by": "a mailed link"}', app_private.current_ip());
end
$$;
comment on function app_hidden.reset_password(text, text, text) is
  'Sets a new password by the secret of a mailed link, ends all sessions of its person, and opens the account to logins again. Raises RQ422: the link is used, expired or unknown, or the password weak, which leaves the link as it is.';
grant execute on function app_hidden.reset_password(text, text, text) to assent_anonymous, assent_user, assent_manager, assent_admin;

create or replace function app_private.tg_credentials__end_resets()
  returns trigger
  language plpgsql
  volatile
  set search_path to pg_catalog, pg_temp
as $$
begin
  delete from app_private.password_resets r where r.user_id = new.user_id;
  return null;
end
$$;
comment on function app_private.tg_credentials__end_resets() is 'A new password, however it was set, ends all links by which another could be chosen.';

create or replace trigger _500_end_resets
  after update of password_hash on app_private.credentials
  for each row execute function app_private.tg_credentials__end_resets();
