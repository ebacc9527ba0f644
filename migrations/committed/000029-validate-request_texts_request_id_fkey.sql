--! Previous: sha1:b96351dc47b9a423f2b6abf7f616a9072adf1c92
--! Hash: sha1:97c16d0db08514926bf2e41b3548003fe885ee67
--! Message: validate request_texts_request_id_fkey

alter table app_private.request_texts validate constraint request_texts_request_id_fkey;
