--! Previous: sha1:3f59251783c1cc7348a4b994d854295abbfb6e38
--! Hash: sha1:c6a85cdfd3d7caafbcbc205d4d113e2c0bb16567
--! Message: trigrams

-- Trusted: the owner of the database may install it.
create extension if not exists pg_trgm with schema app_private;
