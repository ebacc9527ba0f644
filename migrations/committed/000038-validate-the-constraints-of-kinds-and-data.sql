--! Previous: sha1:106c20bb0b47a452c12838046efa5e8d2fedf7c7
--! Hash: sha1:2e3f8218eaff47c40d5dbd84d0f57a5524326d86
--! Message: validate the constraints of kinds and data

-- These read all requests, and hold nobody up.
alter table app_public.requests validate constraint requests_kind_id_fkey;
alter table app_public.requests validate constraint requests_data_object;
alter table app_public.requests validate constraint requests_data_size;
