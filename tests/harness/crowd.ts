import type { Client } from 'pg'
import { cloneDatabase, makeCrowded, type TestDatabase } from './database.ts'
import { addNewcomers, type Person } from './stage.ts'

/** A clone with so many rows that the planner prefers an index, and that a scan shows: 20,000 people, 30,000 requests. */
export async function cloneCrowd(): Promise<TestDatabase> {
  await makeCrowded(fill)
  return cloneDatabase('crowded')
}

async function fill(root: Client): Promise<void> {
  const demo = await root.query(`select split_part(email, '@', 1) as name, user_id as id from app_private.credentials`)
  const id = {
    ...Object.fromEntries(demo.rows.map((row) => [row.name, row.id])),
    ...(await addNewcomers(root)),
  } as Record<Person, string>
  await root.query(`set session_replication_role = replica`)
  // An index for searches is built in a fraction of the time that it takes to fill row by row.
  const searches = await root.query(
    `select schemaname || '.' || indexname as index, indexdef from pg_indexes where indexname like '%_grams_idx'`,
  )
  for (const { index } of searches.rows) await root.query(`drop index ${index}`)
  await root.query(
    `with people as (
       insert into app_public.users (name, created_at) select 'Person ' || n, now() - n * interval '1 hour' from generate_series(1, 20000) n returning id, name
     ), logins as (
       insert into app_private.credentials (user_id, email, password_hash) select id, replace(name, ' ', '.') || '@assent.test', 'none' from people
     )
     insert into app_private.sessions (user_id, secret_hash, refresh_hash, expires_at)
     select id, app_private.hash_secret(id::text), app_private.hash_secret(id || 'r'), now() + interval '1 day' from people`,
  )
  // Of the crowd's 30,000 requests nearly all are approved: what one looks for is rare. One of them has 3,000.
  await root.query(
    `with crowd as (select array_agg(id) as ids from app_public.users where name like 'Person %')
     insert into app_public.requests (title, status, creator_id, assigned_to_id, reviewed_by_id, reviewed_at, submitted_at, created_at)
     select 'Request ' || n, case when n % 1000 = 0 then 'SUBMITTED' else 'APPROVED' end,
       case when n % 2000 = 7 then $1::uuid when n % 10 = 6 then $4::uuid else ids[1 + n % 20000] end,
       case when n % 2000 = 8 then $2::uuid end,
       case when n % 1000 > 0 then case when n % 2000 = 9 then $2::uuid else $3::uuid end end,
       case when n % 1000 > 0 then now() - n * interval '1 minute' end, now() - n * interval '1 minute', now() - n * interval '1 minute'
     from crowd, generate_series(1, 30000) n`,
    [id.user, id.manager2, id.admin, id.idler],
  )
  await root.query(
    `insert into app_private.request_texts
     select id, creator_id, created_at, app_private.searched_text(title, description) from app_public.requests`,
  )
  await root.query(
    `insert into app_public.audit_logs (actor_id, action, request_id, request_creator_id, "timestamp")
     select case when reviewed_by_id = $1 then $1 else creator_id end, case when status = 'SUBMITTED' then 'SUBMIT' else 'APPROVE' end, id, creator_id, created_at
     from app_public.requests`,
    [id.manager2],
  )
  await root.query(
    `insert into app_public.audit_logs (actor_id, action, user_id) select $1, 'USER_UPDATE', $2 from generate_series(1, 20)`,
    [id.admin2, id.user],
  )
  await root.query(
    `insert into app_private.login_attempts (account_key, network, failed)
     select app_private.account_key(n || '@'), ('10.' || n / 65536 || '.' || n / 256 % 256 || '.' || n % 256 || '/32')::cidr, true from generate_series(1, 60000) n`,
  )
  await notifyCrowd(root, 8)
  // Most are read; one person has thousands, as who decides has in time.
  await root.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state, read_at, created_at, request_id)
     select id, case when n % 3 = 0 then 'REMINDER' else 'SUBMITTED' end, 'mine ' || n,
       case when n % 100 = 0 then 'FAILED' else 'NONE' end, case when n > 30 then now() end, now() - n * interval '1 minute', null
     from unnest($1::uuid[]) id, generate_series(1, case when id = $2 then 12000 else 200 end) n`,
    [[id.user, id.manager, id.manager2, id.admin], id.manager2],
  )
  for (const { index, indexdef } of searches.rows)
    await root.query(`${indexdef}; alter index ${index} alter column 1 set statistics 0`)
  await root.query('set session_replication_role = origin')
  await root.query(TWO_YEARS)
  await root.query('vacuum analyze')
}

/** So many notifications more for each of the crowd, half of them unread. */
export const notifyCrowd = (root: Client, count: number) =>
  root.query(
    `insert into app_public.notifications (recipient_id, kind, event, mail_state, read_at, created_at)
     select u.id, 'APPROVED', gen_random_uuid()::text, 'NONE', case when n % 2 = 0 then now() end, now() - n * interval '1 minute'
     from app_public.users u, generate_series(1, $1) n where u.name like 'Person %'`,
    [count],
  )

/** The trail with as many months more as two years bring. */
const TWO_YEARS = `
  do $$
  declare
    at timestamptz := app_private.trail_extends_to();
  begin
    set local role assent_owner;
    alter table app_public.audit_logs detach partition app_private.audit_logs_later;
    for n in 1..24 loop
      execute format('create table app_private.audit_logs_%s partition of app_public.audit_logs
        for values from (%L) to (%L)', n, at, at + interval '1 month');
      at := at + interval '1 month';
    end loop;
    execute format('alter table app_public.audit_logs attach partition app_private.audit_logs_later
      for values from (%L) to (maxvalue)', at);
    perform app_private.guard_month(p.relid) from pg_partition_tree('app_public.audit_logs') p where p.isleaf;
  end
  $$`
