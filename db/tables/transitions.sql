-- The state machine: which actions lead from which status to which, who may take them and what they write. It is all in this
-- table; the function that takes an action is transition() (rules/lifecycle.sql).

create table if not exists app_public.request_parties (
  party text primary key,
  description text not null
);
comment on table app_public.request_parties is
  E'@behavior -*\nWhat a person can be to a request. app_hidden.my_parties tells what somebody is.';
comment on column app_public.request_parties.party is 'The name of the party.';
comment on column app_public.request_parties.description is 'Who belongs to it.';

insert into app_public.request_parties (party, description) values
  ('CREATOR',  'Whoever created it.'),
  ('DECIDER',  'Whoever can decide it: see app_hidden.can_decide.'),
  ('ASSIGNER', 'Whoever can decide it, or may assign any request.')
on conflict (party) do update
  set description = excluded.description
  where (request_parties.*) is distinct from (excluded.*);

create table if not exists app_public.request_transitions (
  from_status text references app_public.request_statuses on update cascade on delete restrict,
  action text not null references app_public.audit_actions on update cascade on delete restrict,
  to_status text not null references app_public.request_statuses on update cascade on delete restrict,
  who text not null references app_public.request_parties on update cascade on delete restrict,
  writes text[] not null default '{}',
  stamps jsonb not null default '{}',
  constraint request_transitions_key unique nulls not distinct (from_status, action),
  constraint request_transitions_stamps_object check (jsonb_typeof(stamps) = 'object')
);
comment on table app_public.request_transitions is
  E'@behavior -*\nThe state machine: one row for each edge. What has no row here cannot happen.';
comment on column app_public.request_transitions.from_status is 'The status before; null if the request does not exist yet.';
comment on column app_public.request_transitions.action is 'The action that is taken.';
comment on column app_public.request_transitions.to_status is 'The status after.';
comment on column app_public.request_transitions.who is 'The party that may take the action.';
comment on column app_public.request_transitions.writes is 'The columns that the caller may set with it.';
comment on column app_public.request_transitions.stamps is
  'The columns that the action itself sets, each with its value: "@now" stands for the time, "@caller" for whoever acts; null '
  'clears.';
comment on constraint request_transitions_stamps_object on app_public.request_transitions is 'Stamps must be a JSON object.';
create index if not exists request_transitions_action_idx on app_public.request_transitions (action);
create index if not exists request_transitions_to_status_idx on app_public.request_transitions (to_status);
create index if not exists request_transitions_who_idx on app_public.request_transitions (who);

insert into app_public.request_transitions (from_status, action, to_status, who, writes, stamps) values
  (null,        'CREATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id,kind_id,data}', '{}'),
  ('DRAFT',     'UPDATE',  'DRAFT',     'CREATOR',  '{title,description,assigned_to_id,data}', '{}'),
  ('DRAFT',     'DELETE',  'DRAFT',     'CREATOR',  '{}',                                 '{"is_deleted": true}'),
  ('DRAFT',     'SUBMIT',  'SUBMITTED', 'CREATOR',  '{}',                                 '{"submitted_at": "@now"}'),
  ('SUBMITTED', 'APPROVE', 'APPROVED',  'DECIDER',  '{review_comment}',
    '{"reviewed_at": "@now", "reviewed_by_id": "@caller"}'),
  ('SUBMITTED', 'REJECT',  'REJECTED',  'DECIDER',  '{review_comment}',
    '{"reviewed_at": "@now", "reviewed_by_id": "@caller"}'),
  ('SUBMITTED', 'ASSIGN',  'SUBMITTED', 'ASSIGNER', '{assigned_to_id}',                   '{}')
on conflict on constraint request_transitions_key do update
  set to_status = excluded.to_status, who = excluded.who, writes = excluded.writes, stamps = excluded.stamps
  where (request_transitions.*) is distinct from (excluded.*);
