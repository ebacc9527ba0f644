--! Previous: sha1:97c16d0db08514926bf2e41b3548003fe885ee67
--! Hash: sha1:c4ebff174a1be8924f634e012f6a197c89032819
--! Message: index for waiting requests of a creator

--! no-transaction
create index concurrently if not exists requests_waiting_creator_id_idx on app_public.requests (creator_id, coalesce(submitted_at, '9999-12-31Z'), id) where submitted_at is not null and reviewed_at is null and not is_deleted;
