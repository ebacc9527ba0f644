-- Roles, and the permissions they carry, as rows. Policies and functions ask for a permission, never for a role.

create table if not exists app_public.roles (
  role text primary key,
  level smallint not null,
  database_role name not null,
  description text not null,
  constraint roles_level_key unique (level),
  constraint roles_database_role_key unique (database_role)
);
comment on table app_public.roles is
  E'@enum\n@enumName Role\n@behavior -*\n'
  'What a person is in the organisation. A role also has the permissions of every role of a lower level.';
comment on column app_public.roles.role is 'The name of the role.';
comment on column app_public.roles.level is 'Rank: a role inherits the permissions of all roles of a lower level.';
comment on column app_public.roles.database_role is 'The PostgreSQL role that requests of people with this role run as.';
comment on column app_public.roles.description is 'What the role is for.';

create table if not exists app_public.role_permissions (
  permission text primary key,
  role text not null references app_public.roles on delete cascade,
  description text not null
);
create index if not exists role_permissions_role_idx on app_public.role_permissions (role);
comment on table app_public.role_permissions is E'@behavior -*\nThe permissions that a role adds to those it inherits.';
comment on column app_public.role_permissions.role is 'The lowest role that has the permission.';
comment on column app_public.role_permissions.permission is 'The permission, as noun and verb.';
comment on column app_public.role_permissions.description is 'What it allows.';

insert into app_public.roles (role, level, database_role, description) values
  ('USER',    1, 'assent_user',    'Drafts and submits requests of their own.'),
  ('MANAGER', 2, 'assent_manager', 'Decides the requests of others.'),
  ('ADMIN',   3, 'assent_admin',   'Administers people, and sees everything.')
on conflict (role) do update
  set level = excluded.level, database_role = excluded.database_role, description = excluded.description
  where (roles.*) is distinct from (excluded.*);

insert into app_public.role_permissions (role, permission, description) values
  ('USER',    'request.create',      'Create requests, and edit, submit and delete one''s own drafts.'),
  ('MANAGER', 'request.read',        'See all requests but the drafts of others.'),
  ('MANAGER', 'request.decide',
    'Approve, reject and assign submitted requests of others that are unassigned, or assigned to oneself.'),
  ('MANAGER', 'user.read_email',     'See the email addresses of others.'),
  ('ADMIN',   'request.read_all',    'See all requests, including drafts and deleted ones.'),
  ('ADMIN',   'request.decide_any',  'Decide submitted requests of others, whoever they are assigned to.'),
  ('ADMIN',   'request.assign_any',  'Assign any submitted request.'),
  ('ADMIN',   'audit.read_all',      'See every audit entry.'),
  ('ADMIN',   'user.manage',         'Create, change and deactivate people.'),
  ('ADMIN',   'kind.manage',         'Create and change kinds of requests.'),
  ('ADMIN',   'mail.manage',         'See which mails could not be delivered, and send them again.'),
  ('ADMIN',   'webhook.manage',      'Register webhooks, see their deliveries, and send deliveries again.')
on conflict (permission) do update
  set role = excluded.role, description = excluded.description
  where (role_permissions.*) is distinct from (excluded.*);
