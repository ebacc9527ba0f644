--! Previous: sha1:225c1b720b013b682704a63ff50562eaacb0f286
--! Hash: sha1:a34a0a12951e1b14ca360e4a8227838bd492f6f9
--! Message: erasure of a person's data

-- Erasing a person's data
insert into app_public.audit_actions (action, is_told, description) values
  ('USER_ERASE',      false, 'A person''s data were erased.')
on conflict (action) do update
  set is_told = excluded.is_told, description = excluded.description
  where (audit_actions.*) is distinct from (excluded.*);
alter table app_public.users add column if not exists erased_at timestamptz;
comment on column app_public.users.erased_at is
  E'@behavior -*\nWhen the person''s data were erased, on their request: see app_private.erase_person.';
