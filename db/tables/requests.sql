-- Requests, and the constraints that hold for each of them whoever writes it. The comment on a constraint is the message that
-- callers get when they violate it (see rules/errors.sql).

create table if not exists app_public.request_statuses (
  status text primary key,
  description text not null
);
comment on table app_public.request_statuses is
  E'@enum\n@enumName RequestStatus\n@behavior -*\n'
  'The state of a request. How it moves from one to the next is in request_transitions.';
comment on column app_public.request_statuses.status is 'The name of the status.';
comment on column app_public.request_statuses.description is 'What it means.';

insert into app_public.request_statuses (status, description) values
  ('DRAFT',     'Its creator is still writing it, and only they and admins see it.'),
  ('SUBMITTED', 'It is awaiting a decision, and can no longer be edited.'),
  ('APPROVED',  'It was approved, for good.'),
  ('REJECTED',  'It was rejected, for good.')
on conflict (status) do update
  set description = excluded.description
  where (request_statuses.*) is distinct from (excluded.*);

create table if not exists app_public.requests (
  id uuid primary key default app_private.uuid_v7(),
  title text not null,
  description text,
  status text not null references app_public.request_statuses on delete restrict,
  version integer not null default 1,
  creator_id uuid not null references app_public.users on delete restrict,
  assigned_to_id uuid references app_public.users on delete restrict,
  reviewed_by_id uuid references app_public.users on delete restrict,
  reviewed_at timestamptz,
  review_comment text,
  submitted_at timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  is_deleted boolean not null default false,
  kind_id text not null default 'GENERAL' references app_public.request_kinds on delete restrict,
  data jsonb not null default '{}',
  constraint requests_title_blank check (not app_private.is_blank(title)),
  constraint requests_title_length check (char_length(title) <= 200),
  constraint requests_description_length check (char_length(description) <= 10000),
  constraint requests_review_comment_length check (char_length(review_comment) <= 10000),
  constraint requests_review_comment_required check (
    status <> 'REJECTED' or not app_private.is_blank(coalesce(review_comment, ''))
  ),
  constraint requests_assigned_to_not_creator check (assigned_to_id <> creator_id),
  constraint requests_reviewed_by_not_creator check (reviewed_by_id <> creator_id),
  constraint requests_submitted_at_check check ((submitted_at is null) = (status = 'DRAFT')),
  constraint requests_reviewed_at_check check ((reviewed_at is not null) = (status in ('APPROVED', 'REJECTED'))),
  constraint requests_reviewed_by_check check ((reviewed_by_id is null) = (reviewed_at is null)),
  constraint requests_is_deleted_check check (not is_deleted or status = 'DRAFT'),
  constraint requests_version_check check (version > 0),
  constraint requests_data_object check (jsonb_typeof(data) = 'object'),
  constraint requests_data_size check (octet_length(data::text) <= 50000)
);
comment on table app_public.requests is
  E'@defaultOrderBy CREATED_AT_DESC\n@hideDeleted\nSomething that somebody asks approval for.';
comment on column app_public.requests.id is 'Time-ordered UUID (version 7).';
comment on column app_public.requests.title is 'What is asked for, in 1 to 200 characters.';
comment on column app_public.requests.description is 'The details, in at most 10,000 characters.';
comment on column app_public.requests.status is 'The state of the request.';
comment on column app_public.requests.version is
  E'@behavior -attribute:aggregate\n'
  'A number that goes up by one with every change. If you name it in a change, the change fails with STALE_VERSION when '
  'another came first.';
comment on column app_public.requests.creator_id is 'Who created it.';
comment on column app_public.requests.assigned_to_id is
  E'@behavior -orderBy\n'
  'The one manager or admin who is asked to decide; null for any of them. An assignee who can no longer decide counts as null.';
comment on column app_public.requests.reviewed_by_id is E'@behavior -orderBy\nWho decided it; never the creator.';
comment on column app_public.requests.reviewed_at is 'When it was decided.';
comment on column app_public.requests.review_comment is
  'The comment on the decision, in at most 10,000 characters. A rejection always has one.';
comment on column app_public.requests.submitted_at is E'@behavior +filterBy -orderBy\nWhen it was submitted.';
comment on column app_public.requests.created_at is 'When it was created.';
comment on column app_public.requests.updated_at is 'When it last changed.';
comment on column app_public.requests.is_deleted is
  E'@behavior +filterBy\nWhether its creator deleted it, which only a draft allows. Only admins still see it.';
comment on column app_public.requests.kind_id is E'@behavior -orderBy\nThe kind of request that it is.';
comment on column app_public.requests.data is
  E'@behavior -orderBy -filterBy -condition:attribute:filterBy -attribute:aggregate\n'
  'What it holds beside the text, as the schema of its kind says: a JSON object of at most 50,000 bytes. A draft may hold '
  'anything.';
comment on constraint requests_title_blank on app_public.requests is 'The title must not be blank.';
comment on constraint requests_title_length on app_public.requests is 'The title must have at most 200 characters.';
comment on constraint requests_description_length on app_public.requests is
  'The description must have at most 10,000 characters.';
comment on constraint requests_review_comment_length on app_public.requests is 'The comment must have at most 10,000 characters.';
comment on constraint requests_review_comment_required on app_public.requests is 'A rejection needs a comment.';
comment on constraint requests_assigned_to_not_creator on app_public.requests is 'A request cannot be assigned to its creator.';
comment on constraint requests_reviewed_by_not_creator on app_public.requests is 'Nobody can decide their own request.';
comment on constraint requests_submitted_at_check on app_public.requests is
  'A request that is not a draft must have a submission time.';
comment on constraint requests_reviewed_at_check on app_public.requests is 'A decided request must have a decision time.';
comment on constraint requests_reviewed_by_check on app_public.requests is 'A decided request must name its reviewer.';
comment on constraint requests_is_deleted_check on app_public.requests is 'Only a draft can be deleted.';
comment on constraint requests_version_check on app_public.requests is 'Versions count from 1.';
comment on constraint requests_kind_id_fkey on app_public.requests is E'@forwardDescription The kind of request that it is.';
comment on constraint requests_data_object on app_public.requests is 'The data must be a JSON object.';
comment on constraint requests_data_size on app_public.requests is 'The data must have at most 50,000 bytes.';

-- Each index has a list's filter first and then its order, read backwards for newest first; the id makes the order total, for
-- cursors. Row-level security lets a filter use an index only by a leakproof operator: = on text and uuid is leakproof, = on
-- an enum is not.
create index if not exists requests_created_at_idx on app_public.requests (created_at, id);
create index if not exists requests_creator_id_idx on app_public.requests (creator_id, created_at, id);
create index if not exists requests_creator_id_assigned_to_id_idx on app_public.requests (creator_id, assigned_to_id)
  where not is_deleted;
create index if not exists requests_status_idx on app_public.requests (status, created_at, id);
create index if not exists requests_creator_id_status_idx on app_public.requests (creator_id, status, created_at, id);
create index if not exists requests_assigned_to_id_idx on app_public.requests (assigned_to_id, created_at, id);
create index if not exists requests_assigned_to_id_status_idx on app_public.requests (assigned_to_id, status, created_at, id);
create index if not exists requests_reviewed_by_id_idx on app_public.requests (reviewed_by_id, created_at, id);
create index if not exists requests_kind_id_idx on app_public.requests (kind_id, created_at, id);
create index if not exists requests_deleted_idx on app_public.requests (created_at, id) where is_deleted;
-- The backlog, oldest first, in the order of app_hidden.waiting_since(). It stays as small as the backlog is, however much has
-- been decided.
create index if not exists requests_waiting_idx on app_public.requests (coalesce(submitted_at, '9999-12-31Z'), id)
  include (status, creator_id, assigned_to_id)
  where submitted_at is not null and reviewed_at is null and not is_deleted;
create index if not exists requests_waiting_creator_id_idx
  on app_public.requests (creator_id, coalesce(submitted_at, '9999-12-31Z'), id)
  where submitted_at is not null and reviewed_at is null and not is_deleted;
-- For turnaround(): with these columns it need not read the requests themselves.
create index if not exists requests_reviewed_at_idx on app_public.requests (reviewed_at)
  include (status, creator_id, reviewed_by_id, submitted_at, is_deleted)
  where reviewed_at is not null;

-- What is searched of a request. It is kept apart, because its index has hundreds of entries for each request, all of which a
-- change of status would write again if they were an index of requests.
create table if not exists app_private.request_texts (
  request_id uuid primary key references app_public.requests on delete cascade,
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

-- The creator is an entry of the index as well, so that it serves those who search among their own: with a blank before it,
-- which no gram has.
create index if not exists request_texts_grams_idx on app_private.request_texts
  using gin ((app_private.grams_of(text) || array_to_tsvector(array[' ' || creator_id::text])));
-- Statistics of it would take ANALYZE longer than all others together, and the search does not need them.
alter index app_private.request_texts_grams_idx alter column 1 set statistics 0;
